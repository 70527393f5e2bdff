"""What a suite found fits into a terminal of 80 columns."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from archlab import Estimate, SuiteResult
from archlab.cli.suite_tables import suite_tables


def test_long_names_fit_into_80_columns() -> None:
    figures = {"mmlu_high_school_european_history acc_norm": Estimate(0.25, 0.125, 0.375, 165, 165)}
    missing = {"scrolls_narrativeqa": "the data set " + "a/very_long_name" * 5 + ", which nobody has"}
    found = SuiteResult("lm-eval", {}, 7, figures=figures, missing=missing, notes=["first " * 20])
    console = Console(width=80, file=StringIO(), record=True)
    console.print(suite_tables(found))
    lines = console.export_text().splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = "".join("".join(lines).split())
    for part in ("mmlu_high_school_european_history", "0.1250to0.3750", "scrolls_narrativeqa", "whichnobodyhas"):
        assert part in text
