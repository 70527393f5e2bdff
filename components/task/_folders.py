"""Classification of files: one sample per file."""

from __future__ import annotations

from typing import Any

from archlab.data.labeled_files import LabeledFile, hash_files

from ._samples import SampleTask


class FileTask(SampleTask):
    """Predict the class of a file; the files of each split are listed on first use."""

    path: str

    @property
    def files(self) -> dict[str, list[LabeledFile]]:
        """The files of each split."""
        raise NotImplementedError

    def size(self, split: str) -> int:
        """Return the number of files of a split."""
        return len(self.files[split])

    def describe(self) -> dict[str, Any]:
        """Return the files as data: the number of each split, and the SHA-256 of names, sizes and content."""
        return {"source": self.path, **super().describe(), "sha256": hash_files(self.files)}
