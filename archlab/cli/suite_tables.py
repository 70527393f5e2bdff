"""The tables of `archlab eval --suite`: each curve, with its intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

from archlab.cli.terminal import foreign, paragraph

if TYPE_CHECKING:
    from archlab.inference.suite import Curve, Estimate, SuiteResult


def suite_tables(result: SuiteResult) -> Group:
    """Return a suite's results as terminal tables of at most 80 columns, with its notes."""
    tables = [_curve_table(curve) for curve in result.curves]
    notes = (paragraph(note) for note in result.notes)
    return Group(*_figures(result), *tables, *_missing_table(result), *notes)


def _figures(result: SuiteResult) -> Iterator[Table]:
    if result.figures:
        table = _table("", "figure", "value")
        table.columns[0].justify = "left"
        for name, each in result.figures.items():
            table.add_row(foreign(name), *_cells(each))
        yield table


def _missing_table(result: SuiteResult) -> Iterator[Table]:
    if result.missing:
        table = Table(title="Not measured", title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("what", no_wrap=True)
        table.add_column("needs")
        for name, needs in result.missing.items():
            table.add_row(foreign(name), foreign(needs))
        yield table


def _curve_table(curve: Curve) -> Table:
    is_loss = curve.y.startswith("loss")
    table = _table(curve.title, curve.x, curve.y, *(["perplexity"] if is_loss else []))
    for x, each in curve.points:
        perplexity = [f"{math.exp(min(each.value, 700)):.4g}"] if is_loss else []
        table.add_row(f"{x:,.10g}", *_cells(each), *perplexity)
    return table


def _table(title: str, *columns: str) -> Table:
    first, value, *further = columns
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in (first, value, "90 % interval", "of", *further):
        table.add_column(column, justify="right")
    return table


def _cells(each: Estimate) -> tuple[str, str, str]:
    interval = "" if each.low is None or each.high is None else f"{each.low:.4f} to {each.high:.4f}"
    return f"{each.value:.4f}", interval, f"{each.units:,}"
