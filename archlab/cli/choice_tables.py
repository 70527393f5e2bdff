"""The choices of a search side by side, in at most 80 columns."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from archlab.cli.live import say
from archlab.cli.terminal import foreign
from archlab.reporting.choices import HEAD, describe_spent, title_of
from archlab.reporting.search_data import SearchData, short_names
from archlab.searching.results.choices import PathResult
from archlab.text import shorten

_LONGEST_NAME = 24


def print_choices(console: Console, data: SearchData) -> None:
    """Print a table for each varied path that has a list of choices, and the resources used by the search."""
    short = short_names(data.shown_paths)
    notes: dict[str, None] = {}
    for result in data.choices:
        console.print(_table(result, short[result.path]))
        notes |= dict.fromkeys(result.notes)
    for line in (*notes, *describe_spent(data)):
        say(console, line)


def _table(result: PathResult, name: str) -> Table:
    table = Table(title=foreign(title_of(result, name)), title_justify="left", box=None, header_style="bold")
    for index, head in enumerate(HEAD):
        table.add_column(head, justify="right" if 0 < index < len(HEAD) - 1 else "left")
    for row in result.choices:
        numbers = [row.best, row.median, row.spread, row.difference]
        cells = [shorten(row.choice, _LONGEST_NAME), str(row.tried), *map(_number, numbers), row.verdict]
        table.add_row(*map(foreign, cells), style="bold green" if row.verdict == "best" else "")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
