"""Signals that ask a run to stop: Ctrl-C (INT) and HUP of a terminal, TERM and USR1 of a scheduler."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_DEFAULT: dict[signal.Signals, Callable[[int, FrameType | None], object] | signal.Handlers] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,
}
# A scheduler may send these to a process twice, by itself and through a launcher; if it cannot wait, it sends KILL.
_OF_SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A signal has asked to stop; `at_once` for a second one of the user's, after which nothing more is saved."""

    def __init__(self, number: int, at_once: bool = False) -> None:
        self.number, self.at_once = number, at_once
        super().__init__(f"stopped by {signal.Signals(number).name}")


class _Handler:
    """Raises Stopped at the first signal, or when a block ends that defers it, and at the user's second at once."""

    def __init__(self) -> None:
        self.count, self.deferred, self.is_deferring = 0, 0, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.count and number in _OF_SCHEDULERS:
            return
        self.count += 1
        if self.count > 2:  # the exception of the second one was caught, or takes too long to unwind
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if self.is_deferring and self.count == 1:
            self.deferred = number
            return
        self.deferred = 0
        raise Stopped(number, at_once=self.count > 1)

    def raise_deferred(self) -> None:
        """Raise the deferred exception, if any."""
        number, self.deferred = self.deferred, 0
        if number:
            raise Stopped(number)


_active: _Handler | None = None


def is_stopping() -> bool:
    """Return whether a signal has asked to stop the block of `stop_on_signals` that this process is in."""
    return _active is not None and _active.count > 0


def take_deferred() -> int:
    """Return the number of the signal that a block defers, which then raises nothing at its end; 0 if there is none."""
    if _active is None:
        return 0
    number, _active.deferred = _active.deferred, 0
    return number


@contextmanager
def stop_on_signals() -> Iterator[_Handler | None]:
    """Raise Stopped, a KeyboardInterrupt, at INT, TERM, HUP and USR1 in a block; do nothing outside the main thread.

    A handler of the user's own stays, as does nohup's: HUP is then ignored.
    """
    global _active
    in_main_thread = threading.current_thread() is threading.main_thread()  # to which alone Python delivers signals
    if _active is not None or not in_main_thread:
        yield _active if in_main_thread else None
        return
    replaced = [number for number, default in _DEFAULT.items() if signal.getsignal(number) is default]
    _active = handler = _Handler()
    try:
        for number in replaced:
            signal.signal(number, handler)
        yield handler
    finally:
        for number in replaced:
            signal.signal(number, _DEFAULT[number])
        _active = None


@contextmanager
def defer_keyboard_interrupt() -> Iterator[None]:
    """Delay the exception of the first signal until the end of a block."""
    with stop_on_signals() as handler:
        if handler is None or handler.is_deferring:
            yield
            return
        handler.is_deferring = True
        try:
            yield
        finally:
            handler.is_deferring = False
            handler.raise_deferred()  # even while another exception is raised: the user's wish is not lost
