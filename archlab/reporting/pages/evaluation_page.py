"""The page of a suite of measurements of one model."""

from __future__ import annotations

from collections.abc import Iterator

from archlab.inference.suite import Curve, Estimate, SuiteResult
from archlab.reporting.figures.chart import Figure, axis, band, chart, dots, key, line, panel
from archlab.reporting.html import facts, figure, page, section, table

HEAD = ("value", "low", "high", "units", "count")
_INTERVAL = "90 % intervals are from resampling"


def evaluation_page(result: SuiteResult, model: str) -> str:
    """Return the page: each curve as a figure and a table, then the settings."""
    return page(f"{model}: {result.suite}", list(result.notes), _sections(result))


def rows_of(curve: Curve) -> Iterator[tuple[float, ...]]:
    """Yield the rows of a curve's table: x, then the estimate; an interval that is not known is left out as nan."""
    for x, each in curve.points:
        yield (x, *numbers_of(each))


def numbers_of(each: Estimate) -> tuple[float, ...]:
    """Return an estimate's numbers, in the order of HEAD."""
    nan = float("nan")
    low, high = (nan if bound is None else bound for bound in (each.low, each.high))
    return each.value, low, high, each.units, each.count


def _sections(result: SuiteResult) -> Iterator[str]:
    if result.figures:
        rows = [("", (name, *_own_digits(each))) for name, each in result.figures.items()]
        note = "90 % intervals are from resampling the units."
        yield section("Figures", table(["figure", *HEAD], rows, name="figures", narrow=True), note=note)
    for curve in result.curves:
        rows = [("", (_whole(x), *_cells(each))) for x, each in curve.points]
        made = table([curve.x, *HEAD[:3], curve.unit, "count"], rows, name=curve.name, narrow=True)
        yield section(curve.title, figure(_figure(curve)), made, note=f"{_INTERVAL} {curve.unit}.")
    if result.missing:
        needs = [("", pair) for pair in result.missing.items()]
        yield section("Not measured", table(["what", "needs"], needs, name="missing", narrow=True))
    settings = {name: value for name, value in result.settings.items() if value is not None}
    yield section("Settings", facts({**settings, "tokens_read": result.tokens}))


def _cells(each: Estimate) -> list[object]:
    return [each.value, each.low, each.high, each.units, each.count]


def _own_digits(each: Estimate) -> list[object]:
    """Return a figure's cells: no number of digits suits all of a column with figures of different sizes."""
    cells = ["" if value is None else f"{value:,.4f}" for value in (each.value, each.low, each.high)]
    return [*cells, each.units, each.count]


def _whole(x: float) -> float | int:
    return int(x) if x.is_integer() else x


def _figure(curve: Curve) -> Figure:
    points = [(x, each.value) for x, each in curve.points]
    known = [(x, each.low, each.high) for x, each in curve.points if each.low is not None and each.high is not None]
    shades = [band("best", known)] if len(known) > 1 else []
    marks = [*shades, line("best", points, silent=True), dots("best", points)]
    values = [value for _, value in points] + [bound for _, *bounds in known for bound in bounds]
    x = axis(curve.x, [x for x, _ in points], log=curve.log)
    legend = [key("best", "mean", "both"), *([key("best", "90 % interval", "band")] if shades else [])]
    return Figure(curve.name, curve.title, chart([panel(x, axis(curve.y, values), marks)], legend, height=340))
