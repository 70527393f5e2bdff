"""Curves of several models in one figure: their validation losses by tokens, and their results of suites."""

from __future__ import annotations

import math
from collections.abc import Sequence

from archlab.inference.suite import Curve
from archlab.reporting.compared_model import ComparedModel
from archlab.reporting.figures.chart import Figure, axis, band, chart, dots, key, line, panel, robust_top
from archlab.reporting.figures.curves import thin

_COLORS, _MOST = 8, 400


def color(index: int) -> str:
    """Return the class of a model's color, the same in all figures of a page."""
    return f"c{index % _COLORS}"


def compared_losses(models: Sequence[ComparedModel]) -> Figure | None:
    """Return the validation losses of runs by tokens; None where none was evaluated."""
    curves = {number: _finite(model.curve) for number, model in enumerate(models)}
    curves = {number: points for number, points in curves.items() if points}
    if not curves:
        return None
    values = [value for points in curves.values() for _, value in points]
    top = max(robust_top(values, 1.0, 2.0), *(points[-1][1] for points in curves.values()))
    marks = [line(color(n), thin(points, _MOST), name=models[n].name) for n, points in curves.items()]
    # A run that was evaluated once, at its end, has no line.
    marks += [dots(color(n), points[-1:], names=[models[n].name]) for n, points in curves.items()]
    tokens = [count for points in curves.values() for count, _ in points]
    y = axis("validation loss, nats per token", [min(values), top], log=True)
    legend = [key(color(n), models[n].name, "both") for n in curves]
    spec = chart([panel(axis("tokens", [0, *tokens], integer=True), y, marks)], legend, height=400)
    return Figure("losses", "validation losses by tokens", spec)


def compared_curve(suite: str, curves: Sequence[tuple[int, str, Curve]]) -> Figure:
    """Return one curve of a suite for several models, which are given with their numbers and names."""
    marks, values, places = [], [], []
    for number, name, curve in curves:
        points = [(x, each.value) for x, each in curve.points]
        known = [(x, e.low, e.high) for x, e in curve.points if e.low is not None and e.high is not None]
        marks += [band(color(number), known)] if len(known) > 1 else []
        marks += [line(color(number), points, silent=True), dots(color(number), points, names=[name] * len(points))]
        values += [value for _, value in points] + [bound for _, *bounds in known for bound in bounds]
        places += [x for x, _ in points]
    first = curves[0][2]
    made = panel(axis(first.x, places, log=first.log), axis(first.y, values), marks)
    legend = [key(color(number), name, "both") for number, name, _ in curves]
    return Figure(f"{suite}-{first.name}", first.title, chart([made], legend, height=340))


def _finite(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(tokens, loss) for tokens, loss in curve if math.isfinite(loss)]
