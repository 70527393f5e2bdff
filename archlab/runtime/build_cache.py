"""Shared libraries that are compiled on this machine, kept with their checksums.

A library is code that runs as the user: it is loaded only if it is whole, the user's own, and closed to others. Its
name holds the checksum of its content, so that one rename publishes both.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from archlab.runtime.fsync import fsync_path
from archlab.runtime.user_cache import distrust, machine_key, usable_cache_dir

_log = logging.getLogger(__name__)
_EXTENSION, _PARTIAL = ".so", ".building-"
_ABANDONED_S = 24 * 3600


def cached_library(kind: str, name: str, parts: tuple[str, ...], build: Callable[[Path], Path | None]) -> Path | None:
    """Return the library built from these inputs on this CPU, from the cache unless it is missing or damaged.

    `build(file)` writes it to a file, or returns the file that it wrote instead, or None if it cannot be built. Other
    processes may build the same one meanwhile: each publishes a whole library.
    """
    folder, prefix = usable_cache_dir(kind), build_key(name, *parts)
    for file in sorted(folder.glob(f"{prefix}.*{_EXTENSION}")):
        if _is_sound(file):
            return file
    _remove_abandoned(folder)
    # Of the same file system, for the rename. mkdtemp gives it to this user alone.
    with tempfile.TemporaryDirectory(dir=folder, prefix=_PARTIAL) as partial:
        built = build(Path(partial) / f"{prefix}{_EXTENSION}")
        return None if built is None else _publish(built, folder, prefix)


def _remove_abandoned(folder: Path) -> None:
    """Remove unfinished builds of processes that were killed long ago."""
    for partial in folder.glob(f"{_PARTIAL}*/"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(partial, ignore_errors=True)


def build_key(name: str, *parts: str) -> str:
    """Return the beginning of a library's file name, which every input and the machine change."""
    key = hashlib.sha256("\0".join((*parts, machine_key())).encode()).hexdigest()[:20]
    return f"{name}-{key}"


def _is_sound(file: Path) -> bool:
    """Return whether a library matches its checksum; one that does not is removed, so that it is built again."""
    problem = next(_problems(file), "")
    if problem:
        _log.warning("%s: it is built again", problem)
        with suppress(OSError):
            file.unlink(missing_ok=True)
    return not problem


def _problems(file: Path) -> Iterator[str]:
    try:
        if file.is_symlink() or not file.is_file():
            yield f"{file} is not a file"
        if problem := distrust(file):
            yield problem
        if _sum(file) != file.name.split(".")[-2]:
            yield f"{file} is damaged"
    except OSError as error:
        yield f"{file} cannot be read ({error.strerror})"


def _publish(built: Path, folder: Path, prefix: str) -> Path:
    built.chmod(0o755)
    fsync_path(built)  # before the rename: a file system may otherwise make the name durable and not the content
    file = folder / f"{prefix}.{_sum(built)}{_EXTENSION}"
    os.replace(built, file)
    fsync_path(folder)
    return file


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:32]
