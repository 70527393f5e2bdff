"""Files of tab-separated rows, read row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archlab.data.rows import Rows, _rows_of

from ._samples import SampleTask


class RowTask(SampleTask):
    """Name the class of a row; a folder, `path`, holds a file of rows for each split."""

    path: str
    names: Mapping[str, str]
    num_fields: int
    header = 0

    def rows(self, split: str) -> Rows:
        """Return the rows of a split, found when first asked for."""
        return _rows_of(self.path, self.names[split], self.num_fields, self.header)

    def named_rows(self, split: str, numbers: Sequence[int]) -> list[tuple[str, list[bytes]]]:
        """Return file and line of some rows, and their fields."""
        rows = self.rows(split)
        return [(rows.name(number), rows[number]) for number in numbers]

    def size(self, split: str) -> int:
        """Return the number of rows of a split."""
        return len(self.rows(split))

    def describe(self) -> dict[str, Any]:
        """Return how many rows each split has."""
        return {"source": self.path, **super().describe()}
