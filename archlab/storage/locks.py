"""Advisory locks on files and directories, which the kernel releases when the process that holds them ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock(file: Path, *, wait: bool, shared: bool = False, create: bool = True) -> Iterator[bool]:
    """Hold a lock on a file, created if missing, and yield whether it was acquired.

    With `wait` the call blocks until it is; without, it yields False if another process holds the lock. Raises
    FileNotFoundError for a file that is missing and not to be created.
    """
    if create:
        file.parent.mkdir(parents=True, exist_ok=True)
    # The file stays when the lock is released: a process that waits would otherwise lock a file without a name.
    # No link is followed: the file that it leads to is not archlab's to create or lock.
    with _open(file, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)) as descriptor:
        yield _acquire(descriptor, wait, shared)


@contextmanager
def lock_dir(folder: Path) -> Iterator[bool]:
    """Hold a lock on an existing directory without waiting, and yield whether it was acquired.

    Yields False as well on network file systems that cannot lock directories.
    """
    with _open(folder, os.O_RDONLY) as descriptor:
        try:
            acquired = _acquire(descriptor, wait=False, shared=False)
        except OSError:
            acquired = False
        yield acquired


@contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, wait: bool, shared: bool) -> bool:
    # flock and not lockf: its locks belong to the open file, so that two blocks of one process exclude each other too.
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
