"""Sources of documents: files of one's own, a library's Python sources, a data set of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from archlab.data.corpus import SPLIT_NAMES
from archlab.data.formats import Document, read_documents, read_file
from archlab.errors import ArchlabError, did_you_mean, one_line

INSTALLED = ("site-packages", "dist-packages", "__pycache__")


@dataclass(frozen=True)
class TextFiles:
    """A file, or the files of a folder that match a glob pattern, hidden ones left out."""

    path: str
    glob: str
    field: str

    def __str__(self) -> str:
        return self.path

    def documents(self) -> Iterator[Document]:
        """Yield the documents of the files, sorted by the files' names relative to the folder."""
        for name, path in self._files():
            yield from read_documents(name, path, self.field)

    def _files(self) -> list[tuple[str, Path]]:
        root = Path(self.path).expanduser()
        if not root.exists():
            raise ArchlabError(f"{self.path}: no such file or folder")
        if not root.is_dir():
            return [(root.name, root)]
        relative = [(path.relative_to(root), path) for path in self._match(root)]
        files = sorted((name.as_posix(), path) for name, path in relative if not _is_hidden(name) and not path.is_dir())
        if not files:
            raise ArchlabError(f"{self.path}: no file matches {self.glob!r}")
        return files

    def _match(self, root: Path) -> list[Path]:
        try:
            return list(root.glob(self.glob))
        except (ValueError, NotImplementedError, OSError) as error:
            raise ArchlabError(f"{self.path}: glob {self.glob!r} cannot be used: {error}") from error


def _is_hidden(name: PurePath) -> bool:
    return any(part.startswith(".") for part in name.parts)


@dataclass(frozen=True)
class StdlibSource:
    """The *.py files of a library's folder, without the packages that are installed in it."""

    path: str

    def __str__(self) -> str:
        return self.path

    def documents(self) -> Iterator[Document]:
        """Yield the files, sorted by their names relative to the folder."""
        files = []
        for root, folders, names in os.walk(self.path):
            folders[:] = [folder for folder in folders if folder not in INSTALLED]  # in place: os.walk skips the others
            files += [Path(root, name) for name in names if name.endswith(".py")]
        if not files:
            raise ArchlabError(f"{self.path}: no *.py files; this Python comes without its library's sources")
        yield from ((name, read_file(file)) for name, file in sorted((self._name(file), file) for file in files))

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()


@dataclass(frozen=True)
class HubDataset:
    """A text column of a data set of the datasets library, with train, validation and test splits."""

    name: str
    config: str | None
    field: str

    def __str__(self) -> str:
        return self.name if self.config is None else f"{self.name} ({self.config})"

    def documents(self) -> Iterator[Document]:
        """Yield the rows of every split, named by the split."""
        dataset = self._load()
        for split, names in SPLIT_NAMES.items():
            rows = self._select_split(dataset, names)
            if self.field not in rows.column_names:
                raise ArchlabError(f"{self}: no column {self.field!r}{did_you_mean(self.field, rows.column_names)}")
            yield from ((f"{split}/{index}", row[self.field].encode()) for index, row in enumerate(rows))

    def _select_split(self, dataset: Mapping[str, Any], names: tuple[str, ...]) -> Any:
        name = next((name for name in names if name in dataset), None)
        if name is None:
            raise ArchlabError(f"{self}: has no {names[0]} split, only {', '.join(dataset)}")
        return dataset[name]

    def _load(self) -> Any:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ArchlabError(f"{self}: needs the datasets library: pip install datasets") from error
        try:
            return load_dataset(self.name, self.config)
        except Exception as error:  # network, names, configurations: the library raises errors of many types
            problem = "cannot be loaded; it must be known to the datasets library, and online or in its cache"
            raise ArchlabError(f"{self}: {problem}: {one_line(error)}") from error
