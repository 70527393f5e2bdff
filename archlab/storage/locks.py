"""Locks on files, which the system releases when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock(file: Path, *, wait: bool, shared: bool = False) -> Iterator[bool]:
    """Hold a lock for the length of a block; give False where another holds it and there is no waiting."""
    file.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _take(opened, wait, shared)
    finally:
        os.close(opened)


def is_free(file: Path) -> bool:
    """Tell whether nobody holds a lock."""
    with lock(file, wait=False) as taken:
        return taken


def _take(opened: int, wait: bool, shared: bool) -> bool:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(opened, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
