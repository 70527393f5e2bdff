"""One pass over the documents of a source, which collects the keys of their splits and a digest of all."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import Protocol, TypeAlias

from archlab.data.file_stamps import Stamp
from archlab.data.file_types import require_utf8
from archlab.data.split_names import SplitBy, document_file
from archlab.data.splits import hash_fraction
from archlab.data.tokenizers import SEPARATOR
from archlab.errors import ArchlabError
from archlab.runtime.progress import report_progress

Document: TypeAlias = tuple[str, bytes]
Advance: TypeAlias = Callable[[int], None]  # takes a number of bytes that have been read

HELD_OUT_FRACTION = 0.05  # of the documents, or else of the bytes, for validation and for test each
_LIMITS = (HELD_OUT_FRACTION, 2 * HELD_OUT_FRACTION)  # of a name's hash: held out first, held out second, and train
_IN_MEMORY = 2**24  # bytes of digests; those of a billion documents are on the disk
_REPORT_FROM = 2**24  # bytes of a source that takes seconds to read
_REPORT_EVERY = 2**22


@dataclass(frozen=True)
class Shard:
    """A part of a source that can be read by itself, such as a file; `num_bytes` is 0 if unknown."""

    num_bytes: int
    read: Callable[[Advance], Iterator[Document]]


class Source(Protocol):
    """A source of documents; sources that compare equal share one reading."""

    @property
    def split_by(self) -> SplitBy:
        """Whether a name such as `train/a.txt` determines a document's split, or a hash of the whole name."""

    def __hash__(self) -> int: ...

    def documents(self) -> Iterator[Document]:
        """Yield the documents in a fixed order, under names that do not depend on the machine."""

    def shards(self) -> Sequence[Shard]:
        """Return the parts of the source, in the order of its documents."""

    def stamp(self) -> Stamp:
        """Return a stamp that changes if any document may have changed, without reading one."""


class ShardedSource:
    """A source whose documents are those of its shards."""

    def shards(self) -> Sequence[Shard]:
        """Return the parts of the source."""
        raise NotImplementedError

    def documents(self) -> Iterator[Document]:
        """Yield all documents."""
        for shard in self.shards():
            yield from shard.read(lambda num_bytes: None)


@dataclass
class FileCounts:
    """The first document of a file, and the numbers and bytes of its documents by the ranges of their names' hash."""

    first: str
    documents: list[int] = field(default_factory=lambda: [0, 0, 0])
    num_bytes: list[int] = field(default_factory=lambda: [0, 0, 0])


@dataclass
class Survey:
    """Counts of a source's documents, empty ones left out: by file, in all, and of each shard, empty ones included.

    `digest` is that of all documents where they were surveyed earlier.
    """

    files: dict[str, FileCounts] = field(default_factory=dict)
    documents: int = 0
    shards: list[int] = field(default_factory=list)
    digest: str | None = None

    def __post_init__(self) -> None:
        self._digests = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed with the survey, however that ends
        weakref.finalize(self, self._digests.close)

    def add(self, name: str, text: bytes) -> None:
        """Count a document."""
        counts = self.files.setdefault(document_file(name), FileCounts(name))
        self.shards[-1] += 1
        if text:
            bin_ = hash_bin(name)
            counts.documents[bin_] += 1
            counts.num_bytes[bin_] += len(text)
            self.documents += 1
            self._digests.write(os.fsencode(name) + SEPARATOR + hashlib.sha256(text).digest())

    def sha256(self, split_by: str, available: Mapping[str, int]) -> str:
        """Return the digest of how the documents are split, of their names and of their texts."""
        if self.digest is not None:
            return self.digest
        digest = hashlib.sha256(f"{split_by} {dict(available)}".encode())
        self._digests.seek(0)
        while chunk := self._digests.read(_REPORT_EVERY):
            digest.update(chunk)
        return digest.hexdigest()


def hash_bin(name: str) -> int:
    """Return 0 and 1 for the names whose documents are held out first and second, and 2 for the others."""
    position = hash_fraction(name)
    return next((number for number, limit in enumerate(_LIMITS) if position < limit), 2)


def survey_documents(documents: Iterable[Document], source: object, strict: bool) -> Survey:
    """Survey documents that are in memory; see `survey_source`."""
    shard = Shard(0, lambda advance: iter(documents))
    return _survey([shard], source, strict, 0)


def survey_source(source: Source) -> Survey:
    """Read a source once; raise ArchlabError for unreadable or non-UTF-8 data, and for a source without text."""
    shards = source.shards()
    return _survey(shards, source, True, sum(shard.num_bytes for shard in shards))


def _survey(shards: Sequence[Shard], source: object, strict: bool, total: int) -> Survey:
    found, advance = Survey(), _teller(f"reading {total / 1e6:,.0f} MB", total)
    for shard in shards:
        found.shards.append(0)
        for name, text in shard.read(advance):
            if strict:
                require_utf8(text, f"{source}, {name}")
            found.add(name, text)
    if not found.documents:
        raise ArchlabError(f"{source}: holds no text, only empty files")
    advance(total)  # to the end, even if a reader has not reported every byte
    return found


def _teller(what: str, total: int) -> Advance:
    """Return a function that counts bytes, and reports progress from time to time."""
    done = reported = 0

    def advance(num_bytes: int) -> None:
        nonlocal done, reported
        done = min(done + num_bytes, total)
        if total >= _REPORT_FROM and (done - reported >= _REPORT_EVERY or done == total):
            reported = done
            report_progress(what, done, total)

    return advance
