"""Checks of files to write to, and of those that `force` may replace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from archlab.errors import ArchlabError
from archlab.text import with_article


def require_output_file(file: Path, what: str, *, force: bool, is_own: Callable[[Path], bool]) -> None:
    """Raise ArchlabError unless a file may be written: it is absent, or with `force` one that archlab wrote.

    `what` says what it is, and `is_own` indicates whether another file is the same.
    """
    if not file.parent.is_dir():
        raise ArchlabError(f"{file}: is in a directory that does not exist")
    if not file.exists() and not file.is_symlink():
        return
    if not force:
        raise ArchlabError(f"{file}: already exists; name another file, or overwrite it with --force")
    if file.is_symlink() or not file.is_file() or not is_own(file):
        raise ArchlabError(
            f"{file}: already exists, and is not {with_article(what)} that archlab wrote; name another file"
        )
