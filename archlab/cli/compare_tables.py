"""The tables of `archlab compare`: models side by side on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

from archlab.cli.terminal import foreign, paragraph
from archlab.reporting.pages.compare_page import costs, results, shared_curves, shared_figures, shared_suites

if TYPE_CHECKING:
    from archlab.inference.suite import Estimate
    from archlab.reporting.model_comparison import ModelComparison


def compare_tables(found: ModelComparison) -> Group:
    """Return results and costs, differences and evaluations of the models, and why losses may not compare."""
    names = [model.name for model in found.models]
    numbers = _table("", names, right=True)
    for name, values in (*results(found.models), *costs(found.models)):
        numbers.add_row(name, *("" if value is None else _number(value) for value in values))
    differing = _table("differences", names)
    for each in found.differences:
        differing.add_row(foreign(each.path), *map(foreign, each.values))
    parts = [numbers, differing] if found.differences else [numbers, "no differences in what is declared"]
    return Group(*parts, *_evaluations(found, names), *(paragraph(note) for note in found.notes))


def _evaluations(found: ModelComparison, names: list[str]) -> Iterator[Table]:
    for suite in shared_suites(found.models):
        if figures := shared_figures(found.models, suite):
            table = _table(suite, names, right=True)
            for name, values in figures.items():
                table.add_row(foreign(name), *map(_format_estimate, values))
            yield table
        for curves in shared_curves(found.models, suite).values():
            table = _table(f"{suite}: {curves[0][2].title}", [name for _, name, _ in curves], right=True)
            points = [dict(curve.points) for _, _, curve in curves]
            for x in sorted({x for each in points for x in each}):
                table.add_row(f"{x:,.10g}", *(_format_estimate(each.get(x)) for each in points))
            yield table


def _table(title: str, names: list[str], *, right: bool = False) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for name in names:
        table.add_column(foreign(name), justify="right" if right else "left", overflow="fold")
    return table


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"


def _format_estimate(each: Estimate | None) -> str:
    if each is None:
        return ""
    interval = "" if each.low is None or each.high is None else f" ({each.low:.3f} to {each.high:.3f})"
    return f"{each.value:.4f}{interval}"
