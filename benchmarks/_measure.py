"""Ratios of speeds, each taken in one run: the two sides take turns, so that what slows the machine slows both."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

Step = Callable[[], Any]
LENT = "the same, with archlab's allocator lent to it"
ENVIRONMENT = dict(os.environ)  # as it is before archlab has set anything


@dataclass(frozen=True)
class Row:
    """One comparison: what is measured, the number of each side, and the ratio that it must reach."""

    what: str
    ours: float
    theirs: float
    unit: str
    wanted: str = ""

    @property
    def ratio(self) -> float:
        """Return ours over theirs."""
        return self.ours / self.theirs


def best_seconds(*steps: Step, rounds: int) -> list[float]:
    """Return each step's shortest time over some rounds in which they take turns, after one each to warm up."""
    best = [float("inf")] * len(steps)
    for step in steps:
        step()
    for _ in range(rounds):
        for index, step in enumerate(steps):
            gc.collect()
            begin = time.perf_counter()
            step()
            best[index] = min(best[index], time.perf_counter() - begin)
    return best


@contextmanager
def apart(make: Callable[..., Step], *args: Any, tune: str = "off") -> Iterator[Step]:
    """Give the step that `make` returns, in a process of its own: a peer as its users have it.

    What archlab sets for a process (its allocator, large pages) is lent to it with `tune="on"`.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, args), daemon=True)
    with patch.dict(os.environ, ENVIRONMENT | {"ARCHLAB_TUNE": tune}, clear=True):
        process.start()
    there.close()

    def step() -> Any:
        here.send(None)
        return here.recv()

    try:
        yield step
    finally:
        here.close()
        process.join()


def _serve(asked: Connection, make: Callable[..., Step], args: tuple[Any, ...]) -> None:
    """Run the step whenever it is asked for, until nobody asks."""
    step = make(*args)
    try:
        while True:
            asked.recv()
            asked.send(step())
    except EOFError:
        return


def require(*packages: str) -> None:
    """End with one line where a peer is not installed."""
    missing = [name for name in packages if find_spec(name.replace("-", "_")) is None]
    if missing:
        print(f"this comparison needs: pip install {' '.join(missing)}", file=sys.stderr)
        sys.exit(2)


def show(title: str, rows: list[Row]) -> None:
    """Print the ratios."""
    table = Table("what", "ours", "other", "unit", "ratio", "wanted", title=title, box=None, title_justify="left")
    for row in rows:
        table.add_row(row.what, f"{row.ours:,.0f}", f"{row.theirs:,.0f}", row.unit, f"{row.ratio:.2f}", row.wanted)
    Console(width=110).print(table)
