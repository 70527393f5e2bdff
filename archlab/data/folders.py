"""Files of a folder and of the folders below it, links followed."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from archlab.errors import ArchlabError


class FoundFile(NamedTuple):
    """A file, its name relative to the folder, and a stamp that changes with it: device, inode, size, time."""

    name: str
    path: Path
    stamp: tuple[int, int, int, int]


def file_stamp(path: str | Path) -> tuple[int, int, int, int]:
    """Return device, inode, size and time of a file, zeros if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0, 0  # reading it raises the error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def list_files_below(root: Path) -> tuple[list[FoundFile], list[str]]:
    """Return the files below a folder, sorted by name, and the names of hidden files and folders, left out.

    Raises ArchlabError naming a folder that cannot be listed, and a link to a folder above itself.
    """
    hidden: list[str] = []
    return sorted(_walk(root, "", (), hidden)), sorted(hidden)


def require_distinct(files: Iterable[FoundFile]) -> None:
    """Raise ArchlabError naming a file that is reached twice, by links: two splits would share its text."""
    first: dict[tuple[int, int], FoundFile] = {}
    for file in files:
        other = first.setdefault(file.stamp[:2], file)
        if other is not file and any(file.stamp[:2]):
            raise ArchlabError(f"{file.path}: is the same file as {other.path}; leave one of them out")


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...], hidden: list[str]) -> Iterator[FoundFile]:
    here = file_stamp(folder)[:2]
    if here in above:
        raise ArchlabError(f"{folder}: links to a folder that it is in; remove the link")
    for name, is_dir in _list(folder):
        if name.startswith("."):
            hidden.append(f"{prefix}{name}")
        elif is_dir:
            yield from _walk(folder / name, f"{prefix}{name}/", (*above, here), hidden)
        else:
            yield FoundFile(f"{prefix}{name}", folder / name, file_stamp(folder / name))


def _list(folder: Path) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise ArchlabError(f"{folder}: cannot be listed: {error.strerror}") from error


def matches_glob(name: str, pattern: Sequence[str]) -> bool:
    """Return whether a relative name matches the parts of a pattern, where `**` stands for any number of folders."""
    # Not Path.glob, whose ** does not enter folders that are links.
    return _matches(name.split("/"), list(pattern))


def _matches(parts: list[str], pattern: list[str]) -> bool:
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return len(pattern) == 1 or any(_matches(parts[start:], pattern[1:]) for start in range(len(parts)))
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
