"""Reports of the progress of long work, such as tokenizing, to the display of a command, if any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Thread
from typing import TypeAlias, TypeVar

T = TypeVar("T")
# Takes a description of the work, the amount done, and the total, None if unknown.
Report: TypeAlias = Callable[[str, int, int | None], None]
_report: ContextVar[Report | None] = ContextVar("report", default=None)
_EVERY_S = 0.2
_MOST = 0.98  # of a call, while it has not ended


@contextmanager
def report_to(report: Report) -> Iterator[None]:
    """Report progress to a function within a block."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


@contextmanager
def report_within(what: str, base: int, size: int, total: int | None) -> Iterator[None]:
    """Report the progress of a block as that of a larger task, from `base` to `base + size`."""
    report = _report.get()

    def report_part(_: str, done: int, of: int | None) -> None:
        if report is not None and of:
            report(what, base + size * done // of, total)

    with report_to(report_part):
        yield


def report_progress(what: str, done: int, total: int | None) -> None:
    """Report the progress of some work; the last call has `done` equal to `total`."""
    report = _report.get()
    if report is not None:
        report(what, done, total)


class EstimatedProgress:
    """Estimates the progress of calls that do not report it, from their size and the speed of earlier ones.

    `total` is the size of all calls together, `speed` the assumed amount per second before the first measurement.
    """

    def __init__(self, what: str, total: int, speed: float) -> None:
        self.what, self.total, self.speed, self.done, self.seconds = what, total, speed, 0, 0.0

    def run(self, size: int, work: Callable[[], T]) -> T:
        """Return the result of a call of a given size, or raise its exception.

        It runs in a thread, and has to leave the interpreter to others, as native code does. A Ctrl-C does not wait.
        """
        future: Future[T] = Future()
        begin = time.monotonic()
        report_progress(self.what, self.done, self.total)
        Thread(target=_call, args=(work, future), daemon=True).start()
        while not _has_ended(future):
            passed = (time.monotonic() - begin) * self.speed
            report_progress(self.what, self.done + int(min(passed, _MOST * size)), self.total)
        self.seconds += time.monotonic() - begin
        self.done += size
        self.speed = self.done / max(self.seconds, 1e-9)
        return future.result()


def _call(work: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def _has_ended(future: Future[T]) -> bool:
    try:
        future.exception(_EVERY_S)
    except TimeoutError:
        return False
    return True
