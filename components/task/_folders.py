"""Files sorted into folders, one for each class."""

from __future__ import annotations

from typing import Any

from archlab.data.class_folders import Labelled, sha256

from ._samples import SampleTask


class FileTask(SampleTask):
    """Name the class of a file; `files` of each split are listed when first asked for."""

    path: str

    @property
    def files(self) -> dict[str, list[Labelled]]:
        """The files of each split."""
        raise NotImplementedError

    def size(self, split: str) -> int:
        """Return the number of files of a split."""
        return len(self.files[split])

    def describe(self) -> dict[str, Any]:
        """Return the files as data: how many each split has, and the SHA-256 of their names."""
        return {"source": self.path, **super().describe(), "sha256": sha256(self.files)}
