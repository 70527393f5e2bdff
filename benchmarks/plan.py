"""Plans beside what is measured here and what is published: python benchmarks/plan.py [memory time megalodon gpu]."""

from __future__ import annotations

import sys

import torch
from _plan_gpu import report_gpu
from _plan_megalodon import report_megalodon
from _plan_memory import report_memory
from _plan_time import report_time

REPORTS = {"memory": report_memory, "time": report_time, "megalodon": report_megalodon, "gpu": report_gpu}


def main() -> None:
    """Print the reports that are named, or all that this machine can have."""
    here = [name for name in REPORTS if name != "gpu" or torch.cuda.is_available()]
    for name in sys.argv[1:] or here:
        REPORTS[name]()


if __name__ == "__main__":
    main()
