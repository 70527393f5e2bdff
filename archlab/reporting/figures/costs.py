"""Figures of costs against results, with the Pareto front and the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from archlab.reporting.figures.chart import Figure, Part, axis, chart, dots, key, line, panel, robust_top
from archlab.reporting.figures.runs import by_kind, legend, shape_of, value_of
from archlab.reporting.format import axis_title
from archlab.reporting.search_data import Run, SearchData

_COSTS = ("params", "flops_per_token", "tokens_per_s", "state_bytes", "memory_per_device")
_MORE_IS_BETTER = ("tokens_per_s",)
_LOG_FROM = 5  # times the smallest value


@dataclass(frozen=True)
class Plane:
    """Two metrics against each other; a sign of -1 says that more is better."""

    x: str
    y: str
    x_sign: float
    y_sign: float


def planes(data: SearchData) -> list[Plane]:
    """Return the pairs of objectives, and the first one against each cost that differs between trials."""
    objectives = list(data.space.objectives)
    pairs = [(x, y) for y, x in combinations(objectives, 2)]
    pairs += [(cost, objectives[0]) for cost in _COSTS if cost not in objectives and _differs(cost, data)]
    return [Plane(x, y, _sign(x, data), _sign(y, data)) for x, y in pairs]


def _differs(cost: str, data: SearchData) -> bool:
    values = [value for run in data.complete if (value := value_of(run, cost)) is not None]
    return len(values) > 1 and min(values) < max(values)


def _sign(metric: str, data: SearchData) -> float:
    if metric in data.space.objectives:
        return data.space.sign_of(metric)
    return -1.0 if metric in _MORE_IS_BETTER else 1.0


def front(plane: Plane, runs: Sequence[Run]) -> list[Run]:
    """Return the complete runs that no other one beats in both metrics, from the cheapest."""
    known = [run for run in runs if value_of(run, plane.x) is not None and value_of(run, plane.y) is not None]
    ordered = sorted(known, key=lambda run: (plane.x_sign * run.metrics[plane.x], plane.y_sign * run.metrics[plane.y]))
    kept: list[Run] = []
    for run in ordered:
        if not kept or plane.y_sign * run.metrics[plane.y] < plane.y_sign * kept[-1].metrics[plane.y]:
            kept.append(run)
    return kept


def cost_panels(data: SearchData) -> Figure | None:
    """Return the figure, or None where there is no pair of metrics, or no two complete trials."""
    if len(data.complete) < 2 or not (pairs := planes(data)):
        return None
    panels = [_panel(plane, data) for plane in pairs]
    keys = [*legend([kind for kind in by_kind(data) if kind in ("complete", "base", "best")], "dot")]
    keys.append(key("front", "Pareto front, named", "both"))
    spec = chart(panels, keys, many=len(data.complete), min_width=380, columns=3, height=340)
    return Figure("costs", "costs against results of the complete trials, with the Pareto front", spec)


def _panel(plane: Plane, data: SearchData) -> Part:
    shown = _shown_runs(plane, data)
    names = {run.name for run in shown}
    best = [run for run in front(plane, data.complete) if run.name in names]
    xs, ys = ([run.metrics[metric] for run in shown] for metric in (plane.x, plane.y))
    order = {run.name: number for number, run in enumerate(data.trials, 1)}
    steps = [(run.metrics[plane.x], run.metrics[plane.y]) for run in best]
    marks = [line("front", steps, steps=True, silent=True), *_dots(plane, shown, data)]
    labels = [run.name for run in best]
    marks.append(dots("front", steps, runs=[order[name] for name in labels], labels=labels, size=5))
    return panel(_axis(plane.x, plane.x_sign, xs), _axis(plane.y, plane.y_sign, ys), marks)


def _shown_runs(plane: Plane, data: SearchData) -> list[Run]:
    """Return the complete runs, the baseline included, without those so much worse that they would hide the others."""
    known = [run for run in data.complete if value_of(run, plane.x) is not None]
    top = robust_top([run.metrics[plane.y] for run in known], plane.y_sign)
    kept = [run for run in known if plane.y_sign * run.metrics[plane.y] <= plane.y_sign * top]
    has_both = all(value_of(data.baseline, metric) is not None for metric in (plane.x, plane.y))
    return [*kept, data.baseline] if has_both else kept


def _dots(plane: Plane, shown: Sequence[Run], data: SearchData) -> list[Part]:
    marks, names = [], {run.name for run in shown}
    for kind, runs in by_kind(data).items():
        mine = [(n, run) for n, run in runs if run.name in names]
        if mine:
            points = [(run.metrics[plane.x], run.metrics[plane.y]) for _, run in mine]
            labels = ["baseline"] if kind == "base" else None
            size = 6 if kind == "best" else 4
            numbers = [n for n, _ in mine]
            marks.append(dots(kind, points, shape=shape_of(kind), runs=numbers, labels=labels, size=size))
    return marks


def _axis(metric: str, sign: float, values: Sequence[float]) -> Part:
    arrow = "more is better" if sign < 0 else "less is better"
    is_log = min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    return axis(f"{axis_title(metric)} ({arrow})", values, log=is_log)
