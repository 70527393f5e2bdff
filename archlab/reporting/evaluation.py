"""The results of a suite, written as a directory: a page, a CSV of each curve, and everything as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path

from archlab.inference.suite import SuiteResult
from archlab.reporting.kept_evaluations import RESULT
from archlab.reporting.pages.evaluation_page import HEAD, evaluation_page, numbers_of, rows_of
from archlab.storage.files import atomic_dir, write_text
from archlab.storage.find_model import run_of_model
from archlab.storage.manifest import write_manifest
from archlab.storage.targets import require_target

KIND = "evaluation"


def evaluation_dir(folder: Path, suite: str) -> Path | None:
    """Return where the evaluations of a run's trained model are kept; None of a model that is not a run's."""
    run = run_of_model(folder)
    return None if run is None else run / "evaluations" / suite


def require_evaluation_target(out: Path, *, force: bool) -> None:
    """Raise ArchlabError unless an evaluation may be written to a directory."""
    require_target(out, KIND, force=force)


def write_evaluation(out: Path, result: SuiteResult, model: str, *, force: bool) -> None:
    """Write index.html, a CSV of each curve and of the figures, and result.json."""
    check = require_target(out, KIND, force=force)
    with atomic_dir(out, replace=True, check=check) as partial:
        write_text(partial / "index.html", evaluation_page(result, model))
        for curve in result.curves:
            write_text(partial / f"{curve.name}.csv", _csv(curve.name, rows_of(curve)))
        if result.figures:
            figures: list[tuple[float | str, ...]] = [(name, *numbers_of(x)) for name, x in result.figures.items()]
            write_text(partial / "figures.csv", _csv("figure", figures))
        write_text(partial / RESULT, json.dumps({"model": model, **result.to_dict()}, indent=2))
        write_manifest(partial, KIND)


def _csv(first: str, found: Iterable[tuple[float | str, ...]]) -> str:
    """Return rows as CSV; unknown values are empty cells."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([first, *HEAD])
    for row in found:
        rows.writerow([cell if isinstance(cell, str) else "" if math.isnan(cell) else f"{cell:.10g}" for cell in row])
    return text.getvalue()
