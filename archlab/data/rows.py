"""Tab-separated files, indexed by row and read row by row."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archlab.data.folders import file_stamp
from archlab.errors import ArchlabError

CHUNK = 2**26  # bytes that are searched for line ends at a time, so that a file of any size can be indexed


class Rows:
    """The rows of a tab-separated file: indexed once, read on demand, after `header` rows that are skipped.

    Raises ArchlabError naming a file that is unreadable or has no row, and a row without `num_fields` fields.
    """

    def __init__(self, path: str, num_fields: int, header: int = 0) -> None:
        self.path, self.num_fields, self.header = path, num_fields, header
        ends = _find_line_ends(path)
        if len(ends) <= header:
            raise ArchlabError(f"{path}: holds no row")
        self.ends, self.start = ends[header:], int(ends[header - 1]) if header else 0

    def __len__(self) -> int:
        return len(self.ends)

    def sha256(self) -> str:
        """Return the SHA-256 of the file."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def locate(self, index: int) -> str:
        """Return a row's location as file:line."""
        return f"{self.path}:{index + 1 + self.header}"

    def __getitem__(self, index: int) -> list[bytes]:
        start = int(self.ends[index - 1]) if index else self.start
        with open(self.path, "rb") as file:
            file.seek(start)
            fields = file.read(int(self.ends[index]) - start).removesuffix(b"\n").removesuffix(b"\r").split(b"\t")
        if len(fields) != self.num_fields:
            raise ArchlabError(f"{self.locate(index)}: has {len(fields)} fields between tabs, not {self.num_fields}")
        return fields


def open_rows(folder: str, name: str, num_fields: int, header: int) -> Rows:
    """Return the rows of a file in a folder, indexed once per process unless the file changes."""
    path = Path(folder).expanduser() / name
    return _open_rows(str(path), num_fields, header, file_stamp(path))


@lru_cache(maxsize=16)
def _open_rows(path: str, num_fields: int, header: int, stamp: tuple[int, int, int, int]) -> Rows:
    return Rows(path, num_fields, header)


def _find_line_ends(path: str) -> NDArray[np.int64]:
    """Return the offset after each line feed, and the file's size if the last line has none."""
    parts, size = [], 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                parts.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + size + 1)
                size += len(chunk)
    except OSError as error:
        raise ArchlabError(f"{path}: cannot be read: {error.strerror}") from error
    ends = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return ends if not size or (len(ends) and ends[-1] == size) else np.append(ends, size)
