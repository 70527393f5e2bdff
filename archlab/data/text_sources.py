"""Sources of documents: files of one's own, a library's Python sources, a data set of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any

from archlab.data.file_stamps import Stamp, stamp_files
from archlab.data.file_types import is_no_data, list_briefly
from archlab.data.folders import FoundFile, file_stamp, list_files_below, matches_glob, require_distinct
from archlab.data.formats import read_documents, read_file
from archlab.data.json_documents import encode_text
from archlab.data.split_names import SplitBy, find_split_names
from archlab.data.survey import Advance, Document, Shard, ShardedSource
from archlab.errors import ArchlabError, did_you_mean, one_line

INSTALLED = ("site-packages", "dist-packages", "__pycache__")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TextFiles(ShardedSource):
    """A file, or the files of a folder that match a glob pattern.

    Hidden files are left out, and so are README, LICENSE and metadata unless the pattern names its files; a log message
    tells. Sources are equal if their files are, with times and sizes: a file that has changed is read again.
    """

    path: str
    glob: str
    field: str
    split_by: SplitBy = "names"

    def __str__(self) -> str:
        return self.path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextFiles) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def shards(self) -> list[Shard]:
        """Return the files, sorted by their names relative to the folder; log the files that are left out."""
        files, left_out = self._selection
        if left_out:
            _log.warning("%s: left out, not data by name: %s", self.path, list_briefly(left_out))
        return [Shard(file.stamp[2], partial(read_documents, file.name, file.path, self.field)) for file in files]

    def stamp(self) -> Stamp:
        """Return a digest of the names, sizes and times of the files and of how they are read."""
        files = [(file.name, file.path) for file in self._selection[0]]
        return stamp_files(files, self.path, self.glob, self.field, self.split_by)

    @cached_property
    def _key(self) -> tuple[str, ...]:
        # A digest of the files, of which there may be many: it is compared at every batch.
        files = hashlib.sha256(repr(self._selection[0]).encode(errors="surrogatepass")).hexdigest()
        return self.path, self.glob, self.field, self.split_by, files

    @cached_property
    def _selection(self) -> tuple[list[FoundFile], list[str]]:
        """The files to read, and the names of those left out."""
        root = Path(self.path).expanduser()
        if not root.exists():
            raise ArchlabError(f"{self.path}: no such file or folder")
        if not root.is_dir():
            return [FoundFile(root.name, root, file_stamp(root))], []
        pattern = self._pattern()
        found, hidden = list_files_below(root)
        matching = [file for file in found if matches_glob(file.name, pattern)]
        other = [file.name for file in matching if pattern[-1] in ("*", "**") and is_no_data(file.name)]
        files = [file for file in matching if file.name not in set(other)]
        if not files:
            only = f"; {list_briefly(other)} is left out by name" if other else ""
            raise ArchlabError(f"{self.path}: no file matches {self.glob!r}{only}")
        require_distinct(files)
        return files, [*hidden, *other]

    def _pattern(self) -> Sequence[str]:
        parts = PurePath(self.glob).parts
        if not parts or any("**" in part and part != "**" for part in parts):
            raise ArchlabError(f"{self.path}: glob {self.glob!r} cannot be used: ** has to stand alone between slashes")
        return parts


@dataclass(frozen=True)
class StdlibSource(ShardedSource):
    """The *.py files of a library's folder, without the packages that are installed in it."""

    path: str
    split_by: SplitBy = "documents"  # its folder `test` is a part of the library, not a split

    def __str__(self) -> str:
        return self.path

    def shards(self) -> list[Shard]:
        """Return the files in one part, sorted by their names relative to the folder."""
        return [Shard(0, self._documents)]

    def stamp(self) -> Stamp:
        """Return a stamp that is not settled: the files are read at every start."""
        return Stamp("", False)

    def _documents(self, advance: Advance) -> Iterator[Document]:
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
class HubDataset(ShardedSource):
    """A text column of a data set of the datasets library, with train, validation and test splits."""

    name: str
    config: str | None
    field: str
    split_by: SplitBy = "names"

    def __str__(self) -> str:
        return self.name if self.config is None else f"{self.name} ({self.config})"

    def shards(self) -> list[Shard]:
        """Return the rows of every split that is one by name, in one part; log the others."""
        return [Shard(0, self._documents)]

    def stamp(self) -> Stamp:
        """Return a digest of the names, sizes and times of the files in which the library keeps the data."""
        files = [Path(file["filename"]) for rows in self._load().values() for file in getattr(rows, "cache_files", ())]
        named = [(path.name, path) for path in files]
        return stamp_files(named, str(self), self.field, self.split_by) if named else Stamp("", False)

    def _documents(self, advance: Advance) -> Iterator[Document]:
        dataset = self._load()
        others = [str(split) for split in dataset if not find_split_names(str(split))]
        if others:
            _log.warning("%s: left out, no splits by name: %s", self, ", ".join(others))
        if not any("train" in find_split_names(str(split)) for split in dataset):
            raise ArchlabError(f"{self}: has no train split, only {', '.join(map(str, dataset))}")
        for split, rows in dataset.items():
            if str(split) not in others:
                yield from self._read_rows(str(split), rows)

    def _read_rows(self, split: str, rows: Any) -> Iterator[Document]:
        if self.field not in rows.column_names:
            raise ArchlabError(f"{self}: no column {self.field!r}{did_you_mean(self.field, rows.column_names)}")
        if not len(rows):
            yield f"{split}/0", b""  # so that an empty split is noticed
        for index, row in enumerate(rows):
            yield f"{split}/{index}", encode_text(row[self.field], self.field, f"{self}, {split} row {index}")

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
