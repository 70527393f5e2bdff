"""Learning curves of all runs of a search: most of them faint, the best one and the baseline not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from archlab.reporting.figures.chart import Figure, Part, axis, chart, line, panel, robust_top
from archlab.reporting.figures.runs import by_kind, legend
from archlab.reporting.format import axis_title
from archlab.reporting.search_data import Run, SearchData

_POINTS = 40_000  # of all curves together: half a megabyte
_LEAST = 12  # points of a curve, however many curves there are
_REACH = 1.5  # of the third quartile, which the first evaluations do not belong to
_FULL = 400  # of those that stand out


def learning_curves(data: SearchData) -> tuple[Figure, str] | None:
    """Return the figure and a note about values not shown, or None if nothing was evaluated."""
    kinds = {kind: [(n, r) for n, r in runs if _finite(r)] for kind, runs in by_kind(data).items()}
    kinds = {kind: runs for kind, runs in kinds.items() if runs}
    curves = [_finite(run) for runs in kinds.values() for _, run in runs]
    if not curves:
        return None
    most = max(_LEAST, _POINTS // len(curves))
    marks = [_mark(kind, number, run, most) for kind, runs in kinds.items() for number, run in runs]
    values = [value for curve in curves for _, value in curve]
    top = max(
        robust_top(values, 1.0, _REACH), *(curve[-1][1] for kind in ("base", "best") for curve in _of(kinds, kind))
    )
    hidden = sum(value > top for value in values)
    steps = [step for curve in curves for step, _ in curve]
    made = panel(
        axis("step", [0, *steps], integer=True), axis(axis_title("val_loss"), [min(values), top], log=True), marks
    )
    spec = chart([made], legend(kinds, "line"), many=len(curves), height=480)
    thinned = most < max(map(len, curves))
    return Figure("curves", f"validation loss by step of {len(curves)} runs", spec), _left_out(hidden, top, thinned)


def _finite(run: Run) -> list[tuple[int, float]]:
    return [(step, value) for step, value in run.curve if math.isfinite(value)]


def _of(kinds: dict[str, list[tuple[int, Run]]], kind: str) -> list[list[tuple[int, float]]]:
    return [_finite(run) for _, run in kinds.get(kind, [])] or [[(0, -math.inf)]]


def _mark(kind: str, number: int, run: Run, most: int) -> Part:
    label = {"best": run.title, "base": "baseline"}.get(kind, "")
    points = thin(_finite(run), _FULL if label else most)
    return line(kind, points, label=label, run=number)


def thin(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Return at most the given number of points of a curve, evenly chosen, with its first and its last."""
    if len(points) <= most:
        return list(points)
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def _left_out(hidden: int, top: float, thinned: bool) -> str:
    parts = [f"{hidden} evaluations above {top:.4g} are cut off"] if hidden else []
    parts += ["of each curve some evaluations are drawn, evenly chosen; metrics.jsonl has all"] if thinned else []
    return f"{'; '.join(parts).capitalize()}." if parts else ""
