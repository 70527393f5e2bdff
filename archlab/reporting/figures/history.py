"""The value of each trial, in the order of the trials, and the best so far."""

from __future__ import annotations

from archlab.reporting.figures.chart import Figure, Part, axis, chart, dots, key, line, panel, robust_top, rule
from archlab.reporting.figures.runs import by_kind, legend, shape_of, value_of
from archlab.reporting.format import axis_title
from archlab.reporting.search_data import Run, SearchData


def history(data: SearchData) -> Figure | None:
    """Return the figure, or None until two trials are complete."""
    objective, sign = data.space.objective, data.space.sign
    complete = [(int(run.name), value) for run in data.complete if (value := value_of(run, objective)) is not None]
    if len(complete) < 2:
        return None
    worst = robust_top([value for _, value in complete], sign)
    baseline = value_of(data.baseline, objective)
    shown = [value for _, value in complete if sign * value <= sign * worst]
    kinds = {kind: runs for kind, runs in by_kind(data).items() if kind not in ("base", "waiting")}
    marks = [_dots(kind, runs, data, worst) for kind, runs in kinds.items()]
    marks.append(line("best", _best_so_far(complete, data), steps=True, silent=True))
    if baseline is not None:
        shown.append(_within(baseline, worst, sign))
        marks.append(rule("base", y=shown[-1], label="baseline"))
    made = panel(
        axis("trial", [0, max(len(data.trials) - 1, 1)], integer=True), axis(axis_title(objective), shown), marks
    )
    keys = [key("best", "best so far", "line"), *legend(kinds, "dot")]
    spec = chart([made], keys, many=len(data.trials), height=300)
    return Figure("history", f"{objective} of each trial, in their order, and the best so far", spec)


def _within(value: float, worst: float, sign: float) -> float:
    return sign * min(sign * value, sign * worst)


def _dots(kind: str, runs: list[tuple[int, Run]], data: SearchData, worst: float) -> Part:
    """Return the dots of a kind; values that are missing or out of range are at the figure's edge."""
    values = [value_of(run, data.space.objective) for _, run in runs]
    rows = [worst if value is None else _within(value, worst, data.space.sign) for value in values]
    points = [(int(run.name), value) for (_, run), value in zip(runs, rows, strict=True)]
    size = 6 if kind == "best" else 3.5 if kind == "complete" else 3
    return dots(kind, points, shape=shape_of(kind), runs=[number for number, _ in runs], size=size)


def _best_so_far(complete: list[tuple[int, float]], data: SearchData) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for number, value in complete:
        if not points or data.space.sign * value < data.space.sign * points[-1][1]:
            points.append((number, value))
    return [*points, (max(len(data.trials) - 1, points[-1][0]), points[-1][1])]
