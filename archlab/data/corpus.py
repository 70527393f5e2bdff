"""Corpora: documents, read once per process and split into train, validation and test."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from archlab.data.formats import Document, require_utf8
from archlab.data.splits import SPLITS, hash_fraction
from archlab.data.tokenizers import SEPARATOR
from archlab.errors import ArchlabError

HELD_OUT_FRACTION = 0.05  # of the documents, or else of the bytes, for validation and for test each
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


class Source(Protocol):
    """A source of documents; sources that compare equal share one reading."""

    def __hash__(self) -> int: ...

    def documents(self) -> Iterable[Document]:
        """Return the documents in a fixed order, under names that do not depend on the machine."""


@dataclass(frozen=True)
class Corpus:
    """The text of each split; `available` counts the bytes of each before `eval_bytes` caps it."""

    texts: dict[str, bytes]
    available: dict[str, int]
    documents: int
    split_by: str
    sha256: str


@lru_cache(maxsize=4)
def read_corpus(source: Source, eval_bytes: int | None, strict: bool = False) -> Corpus:
    """Read and split a corpus; raise ArchlabError naming an input that is unreadable, empty, or (`strict`) not UTF-8.

    Documents whose names all begin with train, validation or test are split by name. Other documents are split by the
    SHA-256 of their names; where they are too few to fill every split, the joined text is split by position: the last
    bytes are test, those before them validation. Empty documents are skipped.
    """
    documents = [document for document in source.documents() if document[1]]
    if not documents:
        raise ArchlabError(f"{source}: holds no text, only empty files")
    if strict:
        for name, text in documents:
            require_utf8(text, f"{source}, {name}")
    splits, split_by = _split(documents)
    caps = {"train": None, "validation": eval_bytes, "test": eval_bytes}
    texts = {split: _trim_partial_characters(splits[split][: caps[split]], strict) for split in SPLITS}
    available = {split: len(splits[split]) for split in SPLITS}
    return Corpus(texts, available, len(documents), split_by, _hash_documents(documents))


def _split(documents: Sequence[Document]) -> tuple[dict[str, bytes], str]:
    for split_by, split in (("names", _split_by_name), ("documents", _split_by_hash)):
        splits = split(documents)
        if all(splits.values()):
            return splits, split_by
    return _split_by_position(documents), "bytes"


def _split_by_name(documents: Sequence[Document]) -> dict[str, bytes]:
    """Split documents by name; return empty splits if any name does not tell its split."""
    splits: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for name, text in documents:
        split = find_split_name(name)
        if split is None:
            return dict.fromkeys(SPLITS, b"")
        splits[split].append(text)
    return {split: SEPARATOR.join(texts) for split, texts in splits.items()}


def find_split_name(name: str) -> str | None:
    """Return the split that a document's name tells, as `train/a.txt`, `valid.jsonl:7` or `wiki.test.raw` do."""
    words = re.split(r"[^a-z]+", name.partition("/")[0].lower())
    splits = [split for split, names in SPLIT_NAMES.items() if set(names) & set(words)]
    return splits[0] if len(splits) == 1 else None


def _split_by_hash(documents: Sequence[Document]) -> dict[str, bytes]:
    splits: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for name, text in documents:
        position = hash_fraction(name)
        held_out = "validation" if position < HELD_OUT_FRACTION else "test"
        splits[held_out if position < 2 * HELD_OUT_FRACTION else "train"].append(text)
    return {split: SEPARATOR.join(texts) for split, texts in splits.items()}


def _split_by_position(documents: Sequence[Document]) -> dict[str, bytes]:
    joined = SEPARATOR.join(text for _, text in documents)
    held_out = int(len(joined) * HELD_OUT_FRACTION)
    test, validation = len(joined) - held_out, len(joined) - 2 * held_out
    return {"train": joined[:validation], "validation": joined[validation:test], "test": joined[test:]}


def _trim_partial_characters(text: bytes, strict: bool) -> bytes:
    """Drop the UTF-8 characters that a split by bytes cut in two, if the text must be UTF-8."""
    return text.decode(errors="ignore").encode() if strict else text


def _hash_documents(documents: Sequence[Document]) -> str:
    digest = hashlib.sha256()
    for name, text in documents:
        digest.update(os.fsencode(name) + SEPARATOR + hashlib.sha256(text).digest())
    return digest.hexdigest()
