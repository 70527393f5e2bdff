"""Corpora: documents, read once per process and split into train, validation and test."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from archlab.data.file_types import require_utf8
from archlab.data.formats import Document
from archlab.data.split_names import SplitBy, assign_splits, document_file, missing_splits
from archlab.data.splits import SPLITS, hash_fraction
from archlab.data.tokenizers import SEPARATOR
from archlab.errors import ArchlabError
from archlab.runtime.progress import report_each

HELD_OUT_FRACTION = 0.05  # of the documents, or else of the bytes, for validation and for test each
_REMEDY = "name every file by its split, leave others out with task.glob, or set task.split_by: documents"


class Source(Protocol):
    """A source of documents; sources that compare equal share one reading."""

    @property
    def split_by(self) -> SplitBy:
        """Whether names such as `train/a.txt` tell the split of a document, or a hash of the whole name."""

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

    Where names of files or folders tell splits, all must: a split that none names is cut from train, and a corpus that
    names a part of its files is refused. Without such names everything is train. What is cut from train are documents,
    by the SHA-256 of their names; where they are too few to fill every split, the joined text is split by position: the
    last bytes are test, those before them validation. Empty documents are skipped.
    """
    documents = list(report_each("reading the corpus (MB)", source.documents(), lambda one: len(one[1]), 1_000_000))
    if not any(text for _, text in documents):
        raise ArchlabError(f"{source}: holds no text, only empty files")
    named = _split_by_name(source, documents)
    documents = [document for document in documents if document[1]]
    if strict:
        for name, text in documents:
            require_utf8(text, f"{source}, {name}")
    splits, split_by = _split(documents, named)
    caps = {"train": None, "validation": eval_bytes, "test": eval_bytes}
    texts = {split: _trim_partial_characters(splits[split][: caps[split]], strict) for split in SPLITS}
    available = {split: len(splits[split]) for split in SPLITS}
    return Corpus(texts, available, len(documents), split_by, _hash_documents(documents, split_by, available))


def _split_by_name(source: Source, documents: Sequence[Document]) -> dict[str, list[Document]]:
    """Return the documents of each split that a name tells; empty if none does."""
    if source.split_by == "documents":
        return {}
    files = dict.fromkeys(document_file(name) for name, _ in documents)
    split_of = assign_splits(list(files), source, _REMEDY)
    named: dict[str, list[Document]] = {split: [] for split in SPLITS if split in split_of.values()}
    for name, text in documents if named else ():
        named[split_of[document_file(name)]].append((name, text))
    for split, members in named.items():
        if not any(text for _, text in members):
            raise ArchlabError(f"{source}: the {split} split, {members[0][0]}, holds no text")
    return named


def _split(documents: Sequence[Document], named: Mapping[str, Sequence[Document]]) -> tuple[dict[str, bytes], str]:
    missing = missing_splits(named)
    train = [document for document in named.get("train", documents) if document[1]]
    cut, cut_by = _cut(train, missing) if missing else ({"train": _join(train)}, "")
    texts = {split: _join(members) for split, members in named.items() if split != "train"} | cut
    if not named:
        return texts, cut_by
    return texts, f"names; {' and '.join(missing)} cut from train by {cut_by}" if missing else "names"


def _cut(documents: Sequence[Document], missing: Sequence[str]) -> tuple[dict[str, bytes], str]:
    """Return the text of train and of splits that are cut from it, and what they are cut by."""
    texts = _cut_by_hash(documents, missing)
    return (texts, "documents") if all(texts.values()) else (_cut_by_position(documents, missing), "bytes")


def _cut_by_hash(documents: Sequence[Document], missing: Sequence[str]) -> dict[str, bytes]:
    splits: dict[str, list[Document]] = {split: [] for split in ("train", *missing)}
    for document in documents:
        position = hash_fraction(document[0])
        limits = (HELD_OUT_FRACTION * number for number in range(1, len(missing) + 1))
        held_out = (split for split, limit in zip(missing, limits, strict=True) if position < limit)
        splits[next(held_out, "train")].append(document)
    return {split: _join(members) for split, members in splits.items()}


def _cut_by_position(documents: Sequence[Document], missing: Sequence[str]) -> dict[str, bytes]:
    joined = _join(documents)
    held_out = int(len(joined) * HELD_OUT_FRACTION)
    starts = [len(joined) - held_out * number for number in range(len(missing), -1, -1)]
    texts = {split: joined[start:end] for split, start, end in zip(missing, starts, starts[1:], strict=False)}
    return {"train": joined[: starts[0]], **texts}


def _join(documents: Iterable[Document]) -> bytes:
    return SEPARATOR.join(text for _, text in documents if text)


def _trim_partial_characters(text: bytes, strict: bool) -> bytes:
    """Drop the UTF-8 characters that a split by bytes cut in two, if the text must be UTF-8."""
    return text.decode(errors="ignore").encode() if strict else text


def _hash_documents(documents: Sequence[Document], split_by: str, available: Mapping[str, int]) -> str:
    digest = hashlib.sha256(f"{split_by} {dict(available)}".encode())
    for name, text in documents:
        digest.update(os.fsencode(name) + SEPARATOR + hashlib.sha256(text).digest())
    return digest.hexdigest()
