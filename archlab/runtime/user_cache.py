"""The user's cache of compiled code, which is run as it is: only files that no one else can write to are used.

Another user who can write there would run code as this one. A folder that is not this user's own, or that others may
write to, is left alone, and the process builds in a private folder of its own, which ends with it.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import platform
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path

from archlab.runtime.cpu_info import cpu_flags, cpu_name
from archlab.runtime.user_dirs import user_root

_log = logging.getLogger(__name__)
# What torch's compiler writes, which splits the names of files at spaces (torch 2.13).
_WITHOUT_SPACES = ("inductor", "ahead")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_dir(name: str) -> Path | None:
    """Return a directory in the user's cache, which persists across reboots, or None if it cannot be used."""
    root = user_root("XDG_CACHE_HOME", ".cache")
    return None if root is None or _problem(root, name) else root / "archlab" / name


def usable_cache_dir(name: str) -> Path:
    """Return the directory in the user's cache, or one of this process that is deleted at its end."""
    return cache_dir(name) or _process_dir(name)


@cache
def _problem(root: Path, name: str) -> str:
    """Return why a directory of a cache cannot be used, or ""; create it if it is missing. Warns once."""
    problem = _use(root, name)
    if problem:
        _log.warning("%s: compiled code is kept for this process alone", problem)
    return problem


def _use(root: Path, name: str) -> str:
    folder = root / "archlab" / name
    if name in _WITHOUT_SPACES and any(map(str.isspace, str(folder))):
        return f"{folder} has a space in its name, at which torch's compiler splits it"
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Under a sticky bit, as /tmp has, no one renames another user's files; a group may be the user's own.
        if root.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
            return f"{root} may be written to by every user"
        for part in (folder.parent, folder):
            part.mkdir(mode=0o700, exist_ok=True)
            _close_to_group(part)
            if problem := distrust(part):
                return f"{problem} (remove it)"
    except OSError as error:
        return f"{folder} cannot be written to ({error.strerror})"
    return "" if os.access(folder, os.W_OK) else f"{folder} cannot be written to"


def _close_to_group(folder: Path) -> None:
    """Take the right to write from the user's own group, which a umask of 002 gives."""
    status = folder.stat()
    if hasattr(os, "geteuid") and (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid()):
        folder.chmod(stat.S_IMODE(status.st_mode) & ~stat.S_IWGRP)


def distrust(path: Path) -> str:
    """Return why code in a file or directory is not to be run, or "": it is the user's or root's, and no one writes."""
    if not hasattr(os, "geteuid"):  # Windows, where a profile is the user's own
        return ""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user (uid {status.st_uid})"
    return f"{path} may be written to by other users" if status.st_mode & _OTHERS_WRITE else ""


@cache
def _process_dir(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"archlab-{name}-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process inherits the exit handler and must leave the folder to its parent
        shutil.rmtree(folder, ignore_errors=True)


@cache
def machine_key() -> str:
    """Return a digest of the properties that machine code depends on: machines may share a home directory."""
    libc = "-".join(platform.libc_ver())
    parts = (platform.system(), platform.machine(), libc, cpu_name(), *sorted(cpu_flags()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
