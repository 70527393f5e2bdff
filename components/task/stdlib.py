"""Text that every machine with Python has."""

from __future__ import annotations

import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab import ArchlabError, Count, register
from archlab.data.formats import Document, read_file

from ._text import TextTask

_SKIPPED = ("site-packages", "dist-packages", "__pycache__")


@dataclass(frozen=True)
class StdlibSource:
    """The *.py files of a library's folder, without what was installed into it."""

    path: str

    def __str__(self) -> str:
        return self.path

    def documents(self) -> Iterator[Document]:
        """Yield the files, sorted by their names below the folder."""
        files = []
        for root, folders, names in os.walk(self.path):
            folders[:] = [folder for folder in folders if folder not in _SKIPPED]
            files += [Path(root, name) for name in names if name.endswith(".py")]
        if not files:
            raise ArchlabError(f"{self.path}: no *.py files; this Python comes without its library's sources")
        yield from ((name, read_file(file)) for name, file in sorted((self._name(file), file) for file in files))

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()


@register("task", "stdlib")
class Stdlib(TextTask):
    """Predict the bytes of the Python standard library's sources; see _corpus.py for how they are split.

    The text differs between Python versions, which describe() names. Validation and test are the first
    `eval_bytes` bytes of their parts (null: all); describe() gives both sizes.
    """

    def __init__(self, *, eval_bytes: Count | None = 524288) -> None:
        super().__init__(StdlibSource(sysconfig.get_path("stdlib")), eval_bytes)

    def describe(self) -> dict[str, Any]:
        """Return the corpus as data, with the version of Python."""
        return {**super().describe(), "python": platform.python_version()}
