"""Progress of long work far below a command, such as tokenizing: told to whoever shows it, if anybody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

# Takes what is done, how much of it, and how much there is in all, None if nobody knows.
Report: TypeAlias = Callable[[str, int, int | None], None]
_report: ContextVar[Report | None] = ContextVar("report", default=None)


@contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Have progress told to a function within a block."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


@contextmanager
def reporting_within(what: str, base: int, size: int, total: int | None) -> Iterator[None]:
    """Have the progress of a block told as that of the part of a larger work from `base` to `base + size`."""
    report = _report.get()

    def told(_: str, done: int, of: int | None) -> None:
        if report is not None and of:
            report(what, base + size * done // of, total)

    with reporting(told):
        yield


def report_progress(what: str, done: int, total: int | None) -> None:
    """Tell how far some work has come; the last call has `done` equal to `total`."""
    report = _report.get()
    if report is not None:
        report(what, done, total)
