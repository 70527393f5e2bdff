"""Axes, marks and panels of a figure, as plain data for assets/chart.js."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from archlab.text import shorten, visible

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Part: TypeAlias = dict[str, Json]
_DIGITS = 6  # more would make a page of a thousand curves heavier, and nobody sees them
_LONGEST = 60
_MANY = 150


@dataclass(frozen=True)
class Figure:
    """A figure: its name, which is the page's anchor and a saved image's file name, its description, and its data."""

    name: str
    description: str
    spec: Part


def text(value: str) -> str:
    """Return text for a figure: hidden characters are shown, for they reorder a label too."""
    return shorten(visible(value), _LONGEST)


def number(value: float) -> float | int:
    """Return a number with as many digits as a figure needs."""
    if isinstance(value, int) or not math.isfinite(value):
        return value
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def numbers(values: Iterable[float]) -> list[Json]:
    """Return numbers with as many digits as a figure needs."""
    return [number(value) for value in values]


def axis(
    label: str,
    values: Iterable[float],
    *,
    log: bool = False,
    integer: bool = False,
    percent: bool = False,
    domain: tuple[float, float] | None = None,
) -> Part:
    """Return an axis of numbers that holds the values; a logarithmic one if `log` and all are positive."""
    finite = [value for value in (*values, *(domain or ())) if math.isfinite(value)] or [0.0, 1.0]
    log = log and min(finite) > 0
    low, high = domain or _pad(min(finite), max(finite), log)
    made: Part = {"label": text(label), "scale": "log" if log else "linear", "domain": numbers((low, high))}
    return made | ({"integer": True} if integer else {}) | ({"percent": True} if percent else {})


def _pad(low: float, high: float, log: bool) -> tuple[float, float]:
    if low == high:
        return low, high  # the script gives it a width
    if log:
        factor = (high / low) ** 0.04
        return low / factor, high * factor
    return low - (high - low) * 0.04, high + (high - low) * 0.04


def categories(label: str, names: Sequence[str]) -> Part:
    """Return an axis of names, in their order; marks count in it from 0."""
    return {"label": text(label), "scale": "category", "values": [text(name) for name in names]}


def line(
    kind: str,
    points: Sequence[tuple[float, float]],
    *,
    label: str = "",
    name: str = "",
    run: int | None = None,
    steps: bool = False,
    silent: bool = False,
) -> Part:
    """Return a line of a kind (a CSS class), labeled at its end; `run` counts in the page's runs."""
    made: Part = {"m": "line", "c": kind, "x": numbers(x for x, _ in points), "y": numbers(y for _, y in points)}
    options: Part = {"label": text(label), "name": text(name), "steps": steps, "silent": silent}
    return made | {key: value for key, value in options.items() if value} | ({} if run is None else {"t": run})


def dots(
    kind: str,
    points: Sequence[tuple[float, float]],
    *,
    shape: str = "circle",
    runs: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    swarm: bool = False,
    offset: float = 0,
    size: float | None = None,
) -> Part:
    """Return dots; `labels` are written beside them, `names` are shown in tooltips, a `swarm` does not overlap."""
    made: Part = {"m": "dot", "c": kind, "x": numbers(x for x, _ in points), "y": numbers(y for _, y in points)}
    options: dict[str, Json] = {
        "shape": shape,
        "t": list(runs) if runs else None,
        "labels": [text(label) for label in labels] if labels else None,
        "names": [text(name) for name in names] if names else None,
        "swarm": swarm,
        "offset": number(offset),
        "size": size,
    }
    return made | {key: value for key, value in options.items() if value}


def band(kind: str, rows: Sequence[tuple[float, float, float]]) -> Part:
    """Return a band between two lines: rows are x, low and high."""
    x, low, high = zip(*rows, strict=True)
    return {"m": "band", "c": kind, "x": numbers(x), "lo": numbers(low), "hi": numbers(high)}


def intervals(kind: str, rows: Sequence[tuple[float, float, float]], *, offset: float = 0) -> Part:
    """Return intervals at places of one axis along the other: rows are place, low and high."""
    at, low, high = zip(*rows, strict=True)
    made: Part = {"m": "interval", "c": kind, "at": numbers(at), "lo": numbers(low), "hi": numbers(high)}
    return made | ({"offset": number(offset)} if offset else {})


def rule(kind: str, *, x: float | None = None, y: float | None = None, label: str = "") -> Part:
    """Return a straight line across the panel at a value of one axis."""
    made: Part = {"m": "rule", "c": kind, "label": text(label)}
    return made | ({"x": number(x)} if x is not None else {"y": number(y)} if y is not None else {})


def panel(x: Part, y: Part, marks: Sequence[Part], title: str = "") -> Part:
    """Return a panel of a chart."""
    return {"x": x, "y": y, "marks": list(marks), "title": text(title)}


def key(kind: str, label: str, mark: str, shape: str = "circle") -> Part:
    """Return an entry of a legend: `mark` is line, dot, both, band, interval, rule or bar."""
    return {"c": kind, "label": text(label), "m": mark, "shape": shape}


def chart(panels: Sequence[Part], legend: Sequence[Part] = (), *, many: int = 0, **options: Json) -> Part:
    """Return a chart; the more runs there are in it, from 150 on, the fainter is each.

    Options are height, columns and min_width, in pixels.
    """
    return {"kind": "chart", "panels": list(panels), "legend": list(legend), "many": many_or_none(many), **options}


def many_or_none(count: int) -> int:
    """Return how many runs a figure has if they would hide each other, else 0."""
    return count if count > _MANY else 0


def robust_top(values: Sequence[float], sign: float, reach: float = 4.0) -> float:
    """Return the worst value that a figure has to show: a diverged run would leave no room for the others.

    Its distance from the third quartile is `reach` times that of the quartile from the best value.
    """
    ordered = sorted((value for value in values if math.isfinite(value)), key=lambda value: sign * value)
    best, quartile = ordered[0], ordered[math.ceil(0.75 * (len(ordered) - 1))]
    limit = quartile + (quartile - best) * reach
    return limit if quartile != best and sign * ordered[-1] > sign * limit else ordered[-1]
