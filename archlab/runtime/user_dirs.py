"""Directories of the user who runs this process, who may have neither a name nor a home, as in a container."""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def ensure_user() -> None:
    """Set USER and HOME where the system knows neither for this process.

    torch, Triton and others ask for both while they are imported, and fail or write to a directory named "~".
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ModuleNotFoundError):
        os.environ["USER"] = f"uid_{os.getuid()}"
    if _home() is None and (folder := private_temp_dir()) is not None:
        os.environ["HOME"] = str(folder)


def user_dir(variable: str, default: str, *parts: str) -> Path | None:
    """Return a directory of the XDG Base Directory Specification, created, or None if it cannot be written."""
    root = user_root(variable, default)
    return root and _writable(root.joinpath(*parts))


def user_root(variable: str, default: str) -> Path | None:
    """Return the directory that an XDG variable names, or that at `default` in the user's home; None without a home."""
    home, named = _home(), os.environ.get(variable)
    return Path(named) if named else home and home / default


def private_temp_dir() -> Path | None:
    """Return a directory that this user alone can read, the same one in each process, or None."""
    with suppress(OSError):  # no temporary directory can be written
        folder = Path(tempfile.gettempdir()) / f"archlab-{os.getuid()}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # Anyone can create it first, under this name, to read or replace files there.
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
        return Path(tempfile.mkdtemp(prefix="archlab-"))
    return None


def _home() -> Path | None:
    # expanduser returns "~" where there is neither HOME nor a passwd entry, and "/" for an empty HOME.
    home = os.path.expanduser("~") if os.environ.get("HOME") != "" else ""
    return Path(home) if os.path.isabs(home) else None


def _writable(folder: Path) -> Path | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
