"""Writing tokens to files that grow document by document, and that a later process can complete."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from archlab.data.prepared.manifest import SplitCounts, read_json, write_json
from archlab.data.split_plan import Part
from archlab.data.splits import SPLITS
from archlab.data.tokenizers import SEPARATOR, Tokenizer
from archlab.runtime.fsync import fsync_path

JOURNAL = "journal.json"
ENDS = np.dtype("<i8")
HELD_OUT = SPLITS[1:]
_EVERY_S = 5.0  # between two entries in the journal: the most work that a killed process repeats
_PATIENCE = 20  # times as long as an entry takes, on a disk that is slow to write files through


def tokens_name(split: str) -> str:
    """Return the file of a split's tokens, one after the other."""
    return f"{split}.tokens"


def ends_name(split: str) -> str:
    """Return the file of the places, in tokens, at which a split's documents end."""
    return f"{split}.ends"


def text_name(split: str) -> str:
    """Return the file of the text of a split that is held out."""
    return f"{split}.text"


_FILES = [*map(tokens_name, SPLITS), *map(ends_name, SPLITS), *map(text_name, HELD_OUT)]


class TokenWriter:
    """Appends tokens to the files of a directory; `place` is the position in the source by its journal."""

    def __init__(self, folder: Path, key: str, tokenizer: Tokenizer) -> None:
        self.folder, self.key, self.tokenizer = folder, key, tokenizer
        self.place: dict[str, Any] = {}
        self.counts = {split: SplitCounts() for split in SPLITS}
        self.dtype = tokenizer.encode_documents([b""])[0].dtype.newbyteorder("<")
        self._files: dict[str, IO[bytes]] = {}
        self._next = 0.0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Open the files for a block, truncated to the journal's sizes; start over if it is of other tokens."""
        journal = read_json(self.folder / JOURNAL) or {}
        if journal.get("key") != self.key or not self._has(journal["sizes"]):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        else:
            self.place = journal["place"]
            self.counts = {split: SplitCounts(**journal["splits"][split]) for split in SPLITS}
        with ExitStack() as stack:
            for name in _FILES:
                file = self._files[name] = stack.enter_context((self.folder / name).open("ab"))
                file.truncate(journal["sizes"][name] if self.place else 0)
            self._next = time.monotonic() + _EVERY_S
            yield

    def _has(self, sizes: Mapping[str, int]) -> bool:
        files = [self.folder / name for name in _FILES]
        return all(file.is_file() and file.stat().st_size >= sizes[file.name] for file in files)

    @property
    def num_bytes(self) -> int:
        """The bytes of text that were written."""
        return sum(counts.bytes for counts in self.counts.values())

    def write(self, parts: Sequence[Part]) -> None:
        """Encode consecutive parts of documents and append their tokens."""
        for split in SPLITS:
            own = [part for part in parts if part.split == split]
            if own:
                self._write(split, [part.text for part in own], own[-1].is_last)

    def _write(self, split: str, texts: Sequence[bytes], ends_corpus: bool) -> None:
        counts, joined = self.counts[split], SEPARATOR.join(texts)
        encoded = self.tokenizer.encode_documents(texts, ends_corpus=ends_corpus)
        ends = counts.tokens + np.cumsum([len(tokens) for tokens in encoded], dtype=ENDS)
        self._files[tokens_name(split)].write(np.concatenate(encoded).astype(self.dtype, copy=False).tobytes())
        self._files[ends_name(split)].write(ends.tobytes())
        between = SEPARATOR if counts.documents else b""
        if split in HELD_OUT:
            self._files[text_name(split)].write(between + joined)
            lost = self.tokenizer.lost(joined)
            counts.lost, counts.example = counts.lost + lost.num_bytes, counts.example or lost.example
        counts.tokens = int(ends[-1])
        counts.documents += len(texts)
        counts.bytes += len(between) + len(joined)

    def note(self, place: Mapping[str, Any]) -> None:
        """Write down, every few seconds, how far the source was read and the files written."""
        begin = time.monotonic()
        if begin < self._next:
            return
        for name, file in self._files.items():
            file.flush()
            fsync_path(self.folder / name)
        sizes = {name: file.tell() for name, file in self._files.items()}
        splits = {split: asdict(counts) for split, counts in self.counts.items()}
        write_json(self.folder / JOURNAL, {"key": self.key, "place": dict(place), "sizes": sizes, "splits": splits})
        now = time.monotonic()
        self._next = now + max(_EVERY_S, _PATIENCE * (now - begin))
