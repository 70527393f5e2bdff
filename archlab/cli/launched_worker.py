"""One worker of a search or a ladder, placed by a launcher; its output is that of its job."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from archlab.cli.ladder_progress import work_on_ladder
from archlab.cli.search_progress import work_on_search
from archlab.searching.run import find_search


def work(console: Console, folder: Path) -> None:
    """Work on the search or ladder in a directory until there is nothing left to begin."""
    space, _ = find_search(folder)
    work_on = work_on_ladder if space.is_ladder else work_on_search
    work_on(console, space, folder)
