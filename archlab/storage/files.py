"""Atomic writes of files and directories: complete or absent after a crash of the process or the machine."""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from archlab.errors import ArchlabError
from archlab.runtime.fsync import fsync_path
from archlab.storage.locks import lock_dir

_PARTIAL = ".archlab-partial"
_REPLACED = ".archlab-replaced"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux, fcntl.h and fs.h


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader finds the old content or the new."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write that replaces `path` at the end of the block, or is deleted if that raises."""
    path = path.resolve()
    partial = _partial_path(path)
    try:
        with partial.open("xb") as file:
            yield file
        fsync_path(partial)  # before the rename: a file system may otherwise make the name durable and not the content
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    fsync_path(path.parent)


@contextmanager
def atomic_dir(
    path: Path, *, replace: bool = False, check: Callable[[Path], None] = lambda folder: None
) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` at the end of the block, or is deleted if the block raises.

    A reader finds the old directory or the new. Partial directories of killed processes beside it are deleted.
    Raises ArchlabError if `path` exists, unless it is a directory to `replace`, and no link to one with files. `check`
    raises for a directory that must stay, before the block and again before it is replaced.
    """
    path = resolve_parent(path)
    _require_replaceable(path, replace, check)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clean_up_after_killed(path)
    partial = _partial_path(path)
    partial.mkdir()
    with lock_dir(partial):  # shows other processes that its writer is alive
        try:
            yield partial
            _sync_tree(partial)
            _require_replaceable(path, replace, check)  # again: the block may have taken hours
            _publish(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    fsync_path(path.parent)


def resolve_parent(path: Path) -> Path:
    """Return the absolute path of a file or directory itself, also where it is a link."""
    # An empty directory may be reached through a link: there is nothing in it to lose.
    if path.name in ("", "..") or (path.is_symlink() and path.is_dir() and not any(path.iterdir())):
        return path.resolve()
    return path.parent.resolve() / path.name


def _require_replaceable(path: Path, replace: bool, check: Callable[[Path], None]) -> None:
    if path.is_symlink():
        raise ArchlabError(f"{path}: is a link, which is not followed to be replaced; name the directory itself")
    if path.exists() and not (replace and path.is_dir()):
        raise ArchlabError(f"{path}: already exists")
    if path.exists():
        check(path)


def remove_dir_atomic(path: Path) -> None:
    """Delete a directory atomically: a reader finds all of it or nothing. A link is refused."""
    path = path.parent.resolve() / path.name
    if path.is_symlink():
        raise ArchlabError(f"{path}: is a link, which is not followed to be deleted")
    partial = _partial_path(path)
    path.rename(partial)
    shutil.rmtree(partial)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")


def _replaced_path(path: Path) -> Path:
    return path.with_name(f".{path.name}{_REPLACED}")


def _publish(partial: Path, path: Path) -> None:
    if not path.exists():
        partial.rename(path)
    elif not _exchange(partial, path):
        # In two steps, between which `path` is missing: _clean_up_after_killed completes them.
        path.rename(_replaced_path(path))
        partial.rename(path)
        shutil.rmtree(_replaced_path(path))


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories atomically, if the system can (Linux, on most file systems)."""
    # Python has no function for it: os.replace fails if the target is a directory with files.
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    if swap is None:
        return False
    return swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _clean_up_after_killed(path: Path) -> None:
    replaced = _replaced_path(path)
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)
    for partial in path.parent.glob(f".*{_PARTIAL}/"):
        with suppress(OSError), lock_dir(partial) as abandoned:
            if abandoned:
                shutil.rmtree(partial)


def _sync_tree(folder: Path) -> None:
    # Directories too: fsync of a file does not make its entry in the directory durable.
    for root, _, names in os.walk(folder):
        for name in names:
            fsync_path(Path(root, name))
        fsync_path(Path(root))
