"""Files and folders that are whole or absent, whatever stops the process that writes them."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from archlab.errors import ArchlabError

_PARTIAL = ".archlab-partial"
_REPLACED = ".archlab-replaced"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part."""
    path = path.resolve()
    partial = _partial(path)
    try:
        with partial.open("xb") as file:
            file.write(data)
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def atomic_dir(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `path` when the block ends well and vanishes otherwise.

    A reader finds the old folder or the new. What a killed process left beside it is removed here.
    Raises ArchlabError where `path` exists, unless it is a folder to `replace`.
    """
    path = path.resolve()
    if path.exists() and not (replace and path.is_dir()):
        raise ArchlabError(f"{path}: already exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    _clean_up_after_killed(path)
    partial = _partial(path)
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    _try_lock(lock)
    try:
        yield partial
        _sync_tree(partial)
        _put_in_place(partial, path)
    finally:
        os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)
    _sync(path.parent)


def remove_dir_atomic(path: Path) -> None:
    """Remove a folder so that a reader finds all of it or nothing."""
    partial = _partial(path.resolve())
    path.rename(partial)
    shutil.rmtree(partial)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def require_empty_dir(folder: Path, force: bool, what: str) -> None:
    """Make a folder for `what`; raise ArchlabError where it holds something already, unless forced.

    Forcing removes nothing: the caller replaces what it writes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as error:
        raise ArchlabError(f"{folder}: cannot hold {what}: {error.strerror}") from error
    if taken and not force:
        raise ArchlabError(f"{folder}: is not empty; name another folder for {what}, or overwrite it with --force")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}{_REPLACED}")


def _put_in_place(partial: Path, path: Path) -> None:
    if not path.exists():
        partial.rename(path)
    elif not _exchange(partial, path):
        path.rename(_replaced(path))
        partial.rename(path)
        shutil.rmtree(_replaced(path))


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where the system can (Linux, on most file systems)."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    if swap is None:
        return False
    return swap(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _clean_up_after_killed(path: Path) -> None:
    replaced = _replaced(path)
    if replaced.exists() and not path.exists():
        replaced.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)
    for partial in path.parent.glob(f".*{_PARTIAL}/"):
        with suppress(OSError):
            _remove_unless_locked(partial)


def _remove_unless_locked(partial: Path) -> None:
    lock = os.open(partial, os.O_RDONLY)
    try:
        if _try_lock(lock):
            shutil.rmtree(partial)
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    """Lock an open folder until it is closed or its process dies; some network file systems cannot."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
