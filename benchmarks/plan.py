"""Plans beside what is measured here and what is published: python benchmarks/plan.py [time megalodon]."""

from __future__ import annotations

import sys

from _plan_megalodon import report_megalodon
from _plan_time import report_time

REPORTS = {"time": report_time, "megalodon": report_megalodon}


def main() -> None:
    """Print the reports that are named, or all."""
    for name in sys.argv[1:] or REPORTS:
        REPORTS[name]()


if __name__ == "__main__":
    main()
