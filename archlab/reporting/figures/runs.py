"""The runs of a search as figures number them: the baseline is 0, and trials follow in their order."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from archlab.reporting.figures.chart import Json, Part, key, text
from archlab.reporting.format import brief
from archlab.reporting.search_data import Run, SearchData, short_names
from archlab.text import shorten, visible

BASELINE = 0
_LEGEND = {
    "best": ("best trial", "circle"),
    "base": ("baseline", "diamond"),
    "complete": ("complete", "circle"),
    "pruned": ("pruned", "hollow"),
    "running": ("running", "hollow"),
    "failed": ("failed", "cross"),
    "infeasible": ("infeasible", "cross"),
    "interrupted": ("interrupted", "cross"),
}
_ORDER = ("waiting", "interrupted", "infeasible", "failed", "pruned", "running", "complete", "base", "best")
_REASON = 160


def by_kind(data: SearchData) -> dict[str, list[tuple[int, Run]]]:
    """Return the runs and their numbers in figures by kind, in the order in which kinds are drawn over each other."""
    found: dict[str, list[tuple[int, Run]]] = {kind: [] for kind in _ORDER}
    for number, run in enumerate([data.baseline, *data.trials]):
        found.setdefault(kind_of(run, data), []).append((number, run))
    return {kind: runs for kind, runs in found.items() if runs}


def kind_of(run: Run, data: SearchData) -> str:
    """Return the kind of a run's marks: best, base, or its state."""
    if run is data.baseline:
        return "base"
    return "best" if run is data.best else run.state


def legend(kinds: Collection[str], mark: str) -> list[Part]:
    """Return the entries of the kinds that occur."""
    # The line of a pruned run ends with a ring.
    marks = {"pruned": "both"} if mark == "line" else {}
    return [key(kind, label, marks.get(kind, mark), shape) for kind, (label, shape) in _LEGEND.items() if kind in kinds]


def shape_of(kind: str) -> str:
    """Return the shape of a kind's dots: kinds differ in more than their color."""
    return _LEGEND.get(kind, ("", "circle"))[1]


def value_of(run: Run, metric: str) -> float | None:
    """Return a run's metric, or None if it has none that is finite."""
    value = run.metrics.get(metric)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def page_data(data: SearchData) -> Mapping[str, Json]:
    """Return the tooltip of each run."""
    short = short_names(data.shown_paths)
    return {
        "knobs": [text(name) for name in short.values()],
        "runs": [_tooltip(run, data) for run in (data.baseline, *data.trials)],
    }


def _tooltip(run: Run, data: SearchData) -> list[Json]:
    values = [text(brief(run.values[path])) if path in run.values else "" for path in data.shown_paths]
    state = f"best, {run.state}" if run is data.best else run.state
    return [run.title, state, visible(shorten(run.reason, _REASON)), values]
