"""Files of text, read once per process and cut into train, validation and test."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archlab.errors import ArchlabError

from ._base import SPLITS

SHARE = 0.05  # of the files, or else of the bytes, each for validation and for test
SEPARATOR = b"\0"

Document: TypeAlias = tuple[str, bytes]


class Source(Protocol):
    """Where text lies; equal sources share one reading."""

    def __hash__(self) -> int: ...

    def files(self) -> list[tuple[str, Path]]:
        """Return files under names that do not depend on the machine, in a fixed order."""


@dataclass(frozen=True)
class Corpus:
    """A text in three parts; `available` counts the bytes of each before the cap on evaluation."""

    tokens: dict[str, NDArray[np.uint8]]
    available: dict[str, int]
    files: int
    split_by: str
    sha256: str


@lru_cache(maxsize=4)
def read(source: Source, eval_bytes: int | None) -> Corpus:
    """Read and split a text; raise ArchlabError naming what cannot be read, or is empty.

    A file belongs to a part by the SHA-256 of its name. Where files are so few that a part would stay
    empty, the whole is cut by position instead: the last bytes are test, those before them validation.
    Files of no bytes are passed over.
    """
    documents = [document for document in map(_read_document, source.files()) if document[1]]
    if not documents:
        raise ArchlabError(f"{source}: holds no text, only empty files")
    parts, split_by = _split_by_file(documents), "files"
    if not all(parts.values()):
        parts, split_by = _split_by_position(documents), "bytes"
    caps = {"train": None, "validation": eval_bytes, "test": eval_bytes}
    tokens = {split: np.frombuffer(parts[split], np.uint8)[: caps[split]] for split in SPLITS}
    available = {split: len(parts[split]) for split in SPLITS}
    return Corpus(tokens, available, len(documents), split_by, _sha256(documents))


def _read_document(file: tuple[str, Path]) -> Document:
    name, path = file
    if not path.is_file():
        raise ArchlabError(f"{path}: cannot be read: not a file, or a link to nothing")
    try:
        return name, path.read_bytes()
    except OSError as error:
        raise ArchlabError(f"{path}: cannot be read: {error.strerror}") from error


def _split_by_file(documents: Sequence[Document]) -> dict[str, bytes]:
    parts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for name, text in documents:
        place = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64
        parts["validation" if place < SHARE else "test" if place < 2 * SHARE else "train"].append(text)
    return {split: SEPARATOR.join(texts) for split, texts in parts.items()}


def _split_by_position(documents: Sequence[Document]) -> dict[str, bytes]:
    whole = SEPARATOR.join(text for _, text in documents)
    held_out = int(len(whole) * SHARE)
    test, validation = len(whole) - held_out, len(whole) - 2 * held_out
    return {"train": whole[:validation], "validation": whole[validation:test], "test": whole[test:]}


def _sha256(documents: Sequence[Document]) -> str:
    total = hashlib.sha256()
    for name, text in documents:
        total.update(os.fsencode(name) + SEPARATOR + hashlib.sha256(text).digest())
    return total.hexdigest()
