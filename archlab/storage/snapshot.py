"""Reading a directory that another process may replace: everything that is read belongs to one intact version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from archlab.errors import ArchlabError
from archlab.storage.manifest import verify

Value = TypeVar("Value")
_ATTEMPTS = 5


def read_verified(folder: Path, read: Callable[[Path], Value]) -> Value:
    """Return `read(folder)` for a directory that matches its manifest, before it is read and while it is.

    Starts over if the directory is replaced meanwhile. Raises ArchlabError if it is damaged, or replaced each time.
    """
    for _ in range(_ATTEMPTS):
        before = _versions(folder)
        try:
            verify(folder)
            value = read(folder)
        except (ArchlabError, OSError):
            # Files of two versions fit neither the manifest nor each other, which is not the directory's fault.
            if _versions(folder) == before:
                raise
            continue
        if _versions(folder) == before:
            return value
    raise ArchlabError(f"{folder}: was replaced {_ATTEMPTS} times while it was read; try again when its writer is done")


def _versions(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return a stamp that changes with any write to a directory or its files: inodes and times of last change."""
    try:
        stats = {str(path): path.stat() for path in (folder, *folder.iterdir())}
    except OSError:  # replaced at this moment, or not there
        return {}
    # The time of change (ctime) too: unlike that of modification no program can set it back.
    return {path: (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats.items()}
