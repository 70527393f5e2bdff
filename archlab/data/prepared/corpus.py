"""A corpus of prepared tokens, mapped into memory: reading it takes no memory, whatever its size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archlab.data.file_stamps import stamp_files
from archlab.data.prepared.manifest import MANIFEST, Manifest, read_manifest
from archlab.data.prepared.writer import ENDS, HELD_OUT, ends_name, text_name, tokens_name
from archlab.data.splits import SPLITS
from archlab.data.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer
from archlab.errors import ArchlabError


class PreparedCorpus:
    """The tokens, the ends of documents and the held-out text in a directory of prepared tokens."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @property
    def documents(self) -> int:
        """The number of documents of all splits."""
        return int(self.manifest.corpus["documents"])

    @property
    def split_by(self) -> str:
        """How the documents were split, in words."""
        return str(self.manifest.corpus["split_by"])

    @property
    def sha256(self) -> str:
        """The digest of the text."""
        return str(self.manifest.corpus["sha256"])

    @property
    def available(self) -> Mapping[str, int]:
        """The bytes of each split before evaluation was capped."""
        return dict(self.manifest.corpus["bytes_available"])

    @property
    def used(self) -> Mapping[str, int]:
        """The bytes of each split."""
        return {split: self.manifest.splits[split].bytes for split in SPLITS}

    def verify(self) -> None:
        """Raise ArchlabError unless every byte of the files is as it was written."""
        read_manifest(self.folder, whole=True)

    def length(self, split: str) -> int:
        """Return the number of tokens of a split."""
        return self.manifest.splits[split].tokens

    def tokens(self, split: str) -> NDArray[Any]:
        """Return the tokens of a split, read lazily from the file."""
        return self._map(tokens_name(split), np.dtype(self.manifest.dtype), self.length(split))

    def ends(self, split: str) -> NDArray[Any]:
        """Return the place behind the last token of each document of a split."""
        return self._map(ends_name(split), ENDS, self.manifest.splits[split].documents)

    def _map(self, name: str, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
        # An empty file cannot be mapped.
        return np.memmap(self.folder / name, dtype, "r", shape=(length,)) if length else np.zeros(0, dtype)

    def text(self, split: str) -> bytes:
        """Return the text of a held-out split; raise ArchlabError for train, of which there are tokens alone."""
        if split not in HELD_OUT:
            raise ArchlabError(f"{self.folder}: keeps the text of {' and '.join(HELD_OUT)} only, not that of {split}")
        return (self.folder / text_name(split)).read_bytes()

    def num_bytes(self, split: str) -> int:
        """Return the number of bytes of a split's text that its tokens stand for."""
        counts = self.manifest.splits[split]
        return counts.bytes - max(counts.documents - 1, 0) * (1 - self.manifest.separator_bytes)

    def lost(self, split: str) -> tuple[int, str]:
        """Return the number of bytes of a split's text that its tokens lose, and an example.

        The training text was not compared: the loss on validation text is scaled to its size.
        """
        counts = self.manifest.splits[split]
        if split in HELD_OUT:
            return counts.lost, counts.example
        seen = self.manifest.splits["validation"]
        return round(seen.lost * counts.bytes / max(seen.bytes, 1)), seen.example

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        name, special_tokens = self.tokenizer_name, bool(self.manifest.tokenizer.get("special_tokens", False))
        return ByteTokenizer() if name == "bytes" else load_tokenizer(name, special_tokens)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer as `load_tokenizer` takes it: `bytes`, or a file of the directory."""
        files = self.manifest.tokenizer.get("files") or []
        return str(self.folder / files[0]) if files else "bytes"


def open_corpus(folder: Path) -> PreparedCorpus:
    """Open a directory of prepared tokens; raise ArchlabError naming missing or damaged files."""
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder / MANIFEST]
    return _open(folder, stamp_files([(file.name, file) for file in files]).digest)


@lru_cache(maxsize=16)
def _open(folder: Path, stamp: str) -> PreparedCorpus:
    return PreparedCorpus(folder, read_manifest(folder))
