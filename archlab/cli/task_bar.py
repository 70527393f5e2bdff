"""A bar on standard error for work that is no training: profiling, evaluating, reading a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from archlab.cli.progress import ProgressBar
from archlab.cli.terminal import SafeConsole


@contextmanager
def task_bar() -> Iterator[ProgressBar]:
    """Show progress reported within a block, and leave standard output to the result."""
    with ProgressBar(SafeConsole(stderr=True)) as bar:
        yield bar
