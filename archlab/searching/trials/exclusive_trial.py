"""Room for trials: one whose process was killed may have needed the memory that others had, and then runs alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from archlab.storage.locks import lock

_TURN, _ROOM = ".turn.lock", ".room.lock"
_POLL_S = 0.2


@contextmanager
def hold_room(folder: Path, *, alone: bool, is_stopping: Callable[[], bool]) -> Iterator[None]:
    """Hold room for a trial of a search in a block, shared with others or for it `alone`.

    Waits until there is, unless the search is stopping.
    """
    with ExitStack() as held:
        # A trial that waits to run alone holds the lock: otherwise others would keep starting before it.
        with _wait_for(folder / _TURN, False, is_stopping):
            held.enter_context(_wait_for(folder / _ROOM, not alone, is_stopping))
        yield


@contextmanager
def _wait_for(file: Path, shared: bool, is_stopping: Callable[[], bool]) -> Iterator[None]:
    while True:
        with lock(file, wait=False, shared=shared) as acquired:
            if acquired or is_stopping():
                yield
                return
        time.sleep(_POLL_S)
