"""Files of tab-separated rows, read row by row."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archlab.errors import ArchlabError

CHUNK = 2**26


class Rows:
    """The rows of a file that has one a line, found once and read when asked for; `header` rows are passed over.

    Raises ArchlabError naming a file that cannot be read or has no row, and a row without `num_fields` fields.
    """

    def __init__(self, path: str, num_fields: int, header: int = 0) -> None:
        self.path, self.num_fields, self.header = path, num_fields, header
        self.ends = _line_ends(path)[header:]
        self.first = int(_line_ends(path)[header - 1]) if header else 0
        if not len(self.ends):
            raise ArchlabError(f"{path}: holds no row")

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, number: int) -> str:
        """Return file and line of a row."""
        return f"{self.path}:{number + 1 + self.header}"

    def __getitem__(self, number: int) -> list[bytes]:
        begin = int(self.ends[number - 1]) if number else self.first
        with open(self.path, "rb") as file:
            file.seek(begin)
            fields = file.read(int(self.ends[number]) - begin).rstrip(b"\r\n").split(b"\t")
        if len(fields) != self.num_fields:
            raise ArchlabError(f"{self.name(number)}: has {len(fields)} fields between tabs, not {self.num_fields}")
        return fields


@cache
def _rows_of(folder: str, name: str, num_fields: int, header: int) -> Rows:
    return Rows(str(Path(folder).expanduser() / name), num_fields, header)


@cache
def _line_ends(path: str) -> NDArray[np.int64]:
    """Return where each line ends, behind its line feed; the last one may go without."""
    found, size = [], 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                found.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + size + 1)
                size += len(chunk)
    except OSError as error:
        raise ArchlabError(f"{path}: cannot be read: {error.strerror}") from error
    ends = np.concatenate(found) if found else np.zeros(0, np.int64)
    return ends if not size or (len(ends) and ends[-1] == size) else np.append(ends, size)
