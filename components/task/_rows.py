"""Classification of the rows of tab-separated files: one sample per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archlab.data.rows import Rows, open_rows
from archlab.data.splits import SPLITS

from ._samples import SampleTask


class RowTask(SampleTask):
    """Predict the class of a row; `path` is a folder with one file of rows per split, indexed on first use."""

    path: str
    names: Mapping[str, str]
    num_fields: int
    header = 0

    def table(self, split: str) -> Rows:
        """Return the rows of a split."""
        return open_rows(self.path, self.names[split], self.num_fields, self.header)

    def read_rows(self, split: str, indices: Sequence[int]) -> list[tuple[str, list[bytes]]]:
        """Return the location, as file:line, and the fields of some rows."""
        rows = self.table(split)
        return [(rows.locate(index), rows[index]) for index in indices]

    def size(self, split: str) -> int:
        """Return the number of rows of a split."""
        return len(self.table(split))

    def describe(self) -> dict[str, Any]:
        """Return the number of rows of each split, and the SHA-256 of each file."""
        return {
            "source": self.path,
            **super().describe(),
            "sha256": {split: self.table(split).sha256() for split in SPLITS},
        }
