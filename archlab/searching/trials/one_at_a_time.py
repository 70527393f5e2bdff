"""Callbacks that several workers call, from one thread at a time."""

from __future__ import annotations

import threading
from typing import Any, TypeVar, cast

from archlab.training.callbacks import Callback

C = TypeVar("C")


def one_at_a_time(callback: C) -> C:
    """Return a callback whose hooks, and those of the callbacks of runs that they return, are called so."""
    return cast(C, _OneAtATime(callback, threading.RLock()))


class _OneAtATime:
    def __init__(self, callback: object, lock: threading.RLock) -> None:
        self._callback, self._lock = callback, lock

    def __getattr__(self, hook: str) -> Any:
        def call(*arguments: Any) -> Any:
            with self._lock:
                result = getattr(self._callback, hook)(*arguments)
            return _OneAtATime(result, self._lock) if isinstance(result, Callback) else result

        return call
