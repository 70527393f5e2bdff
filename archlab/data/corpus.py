"""Documents, read once per process and cut into train, validation and test."""

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

SHARE = 0.05  # of the documents, or else of the bytes, each for validation and for test
NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


class Source(Protocol):
    """Where text lies; equal sources share one reading."""

    def __hash__(self) -> int: ...

    def documents(self) -> Iterable[Document]:
        """Return documents under names that do not depend on the machine, in a fixed order."""


@dataclass(frozen=True)
class Corpus:
    """A text in three parts; `available` counts the bytes of each before the cap on evaluation."""

    texts: dict[str, bytes]
    available: dict[str, int]
    documents: int
    split_by: str
    sha256: str


@lru_cache(maxsize=4)
def read(source: Source, eval_bytes: int | None, strict: bool = False) -> Corpus:
    """Read and split a text; raise ArchlabError naming what cannot be read, is empty, or (`strict`) is not UTF-8.

    Where the names of all documents begin with train, validation and test, they say the part. Otherwise a document
    belongs to a part by the SHA-256 of its name; where documents are so few that a part would stay empty, the
    whole is cut by position: the last bytes are test, those before them validation. Empty documents are passed over.
    """
    documents = [document for document in source.documents() if document[1]]
    if not documents:
        raise ArchlabError(f"{source}: holds no text, only empty files")
    if strict:
        for name, text in documents:
            require_utf8(text, f"{source}, {name}")
    parts, split_by = _split(documents)
    caps = {"train": None, "validation": eval_bytes, "test": eval_bytes}
    texts = {split: _whole_characters(parts[split][: caps[split]], strict) for split in SPLITS}
    available = {split: len(parts[split]) for split in SPLITS}
    return Corpus(texts, available, len(documents), split_by, _sha256(documents))


def _split(documents: Sequence[Document]) -> tuple[dict[str, bytes], str]:
    for split_by, cut in (("names", _split_by_name), ("documents", _split_by_hash)):
        parts = cut(documents)
        if all(parts.values()):
            return parts, split_by
    return _split_by_position(documents), "bytes"


def _split_by_name(documents: Sequence[Document]) -> dict[str, bytes]:
    parts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for name, text in documents:
        split = named_split(name)
        if split is None:
            return dict.fromkeys(SPLITS, b"")
        parts[split].append(text)
    return {split: SEPARATOR.join(texts) for split, texts in parts.items()}


def named_split(name: str) -> str | None:
    """Return the part that a document's name begins with, as in `train/a.txt`, `valid.jsonl:7` or `wiki.test.raw`."""
    words = re.split(r"[^a-z]+", name.partition("/")[0].lower())
    found = [split for split, known in NAMES.items() if set(known) & set(words)]
    return found[0] if len(found) == 1 else None


def _split_by_hash(documents: Sequence[Document]) -> dict[str, bytes]:
    parts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for name, text in documents:
        place = hash_fraction(name)
        parts["validation" if place < SHARE else "test" if place < 2 * SHARE else "train"].append(text)
    return {split: SEPARATOR.join(texts) for split, texts in parts.items()}


def _split_by_position(documents: Sequence[Document]) -> dict[str, bytes]:
    whole = SEPARATOR.join(text for _, text in documents)
    held_out = int(len(whole) * SHARE)
    test, validation = len(whole) - held_out, len(whole) - 2 * held_out
    return {"train": whole[:validation], "validation": whole[validation:test], "test": whole[test:]}


def _whole_characters(text: bytes, strict: bool) -> bytes:
    """Return a text that may have been cut inside a character without the halves of it."""
    return text.decode(errors="ignore").encode() if strict else text


def _sha256(documents: Sequence[Document]) -> str:
    total = hashlib.sha256()
    for name, text in documents:
        total.update(os.fsencode(name) + SEPARATOR + hashlib.sha256(text).digest())
    return total.hexdigest()
