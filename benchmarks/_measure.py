"""Ratios of speeds from interleaved runs: load from other processes then slows both sides alike."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from archlab.runtime.timing import time_call

Step = Callable[[], Any]
CPU = torch.device("cpu")
SHARED_ALLOCATOR = "the same, sharing archlab's allocator"
ENVIRONMENT = dict(os.environ)  # before archlab has configured this process, which it does when models are imported


@dataclass(frozen=True)
class Row:
    """One comparison: what is measured, the result of each side, and the target of their ratio."""

    what: str
    ours: float
    theirs: float
    unit: str
    target: str = ""

    @property
    def ratio(self) -> float:
        """Return ours over theirs."""
        return self.ours / self.theirs


def wall_seconds(step: Step) -> float:
    """Return the time that a step takes."""
    return time_call(step, CPU)


def cpu_seconds(step: Step) -> float:
    """Return the time that a step takes of the processor, in which waiting for other processes does not count."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


def best_seconds(*steps: Step, rounds: int, timed: Callable[[Step], float] = wall_seconds) -> list[float]:
    """Return each step's shortest time over some interleaved rounds, after one call each to warm up."""
    best = [float("inf")] * len(steps)
    for step in steps:
        step()
    for _ in range(rounds):
        for index, step in enumerate(steps):
            gc.collect()  # not while a step is timed
            best[index] = min(best[index], timed(step))
    return best


@contextmanager
def in_subprocess(make: Callable[..., Step], *args: Any, tune: str = "off") -> Iterator[Step]:
    """Yield the step that `make` returns, run in a process of its own: a peer as its users have it.

    With `tune="on"` the process shares what archlab configures for its own (allocator, large pages).
    """
    # Spawned, as a forked process would inherit the allocator and the threads of this one.
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


def in_own_process(measure: Callable[..., Any], *args: Any) -> Any:
    """Return what a measurement returns in a fresh process, configured as archlab's own.

    A process that has measured something larger before keeps its memory and its caches: growth would not be seen.
    """
    with in_subprocess(partial, measure, *args, tune="on") as step:
        return step()


def _serve(connection: Connection, make: Callable[..., Step], args: tuple[Any, ...]) -> None:
    """Run the step at every request, until the connection is closed."""
    step = make(*args)
    try:
        while True:
            connection.recv()
            connection.send(step())
    except EOFError:
        return


def require(*packages: str) -> None:
    """Exit with one line where a peer is not installed."""
    missing = [name for name in packages if find_spec(name.replace("-", "_")) is None]
    if missing:
        print(f"this comparison needs: pip install {' '.join(missing)}", file=sys.stderr)
        sys.exit(2)


def show(title: str, rows: list[Row]) -> None:
    """Print a table of comparisons."""
    table = Table("what", "ours", "other", "unit", "ratio", "target", title=title, box=None, title_justify="left")
    for row in rows:
        table.add_row(row.what, f"{row.ours:,.0f}", f"{row.theirs:,.0f}", row.unit, f"{row.ratio:.2f}", row.target)
    Console(width=110).print(table)
