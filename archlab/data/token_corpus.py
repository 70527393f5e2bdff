"""The tokens of a corpus: bytes in memory, or a memory-mapped file that a tokenizer wrote once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from archlab.data.corpus import Corpus, read_corpus
from archlab.data.prepared import open_prepared, word_tokenizer
from archlab.data.splits import SPLITS
from archlab.data.survey import Source
from archlab.data.tokenizers import SEPARATOR, ByteTokenizer, Tokenizer, WordTokenizer

_log = logging.getLogger(__name__)
# Of a text's bytes. A word in a thousand that is lost changes bits per byte in the fourth digit, if at all.
_MAX_LOST = 1e-3


class TokenCorpus(Protocol):
    """A corpus as a task reads it: its tokens by split, their bytes, and the identity of the text."""

    @property
    def documents(self) -> int:
        """The number of documents of all splits."""

    @property
    def split_by(self) -> str:
        """How the documents were split, in words."""

    @property
    def sha256(self) -> str:
        """The digest of the text."""

    @property
    def available(self) -> Mapping[str, int]:
        """The bytes of each split before evaluation was capped."""

    @property
    def used(self) -> Mapping[str, int]:
        """The bytes of each split."""

    def length(self, split: str) -> int:
        """Return the number of tokens of a split."""

    def tokens(self, split: str) -> NDArray[Any]:
        """Return the tokens of a split."""

    def ends(self, split: str) -> NDArray[Any]:
        """Return the place behind the last token of each document of a split."""

    def num_bytes(self, split: str) -> int:
        """Return the number of bytes of a split's text that its tokens stand for."""

    def text(self, split: str) -> bytes:
        """Return the text of a split; raise ArchlabError if it is not kept."""

    def lost(self, split: str) -> tuple[int, str]:
        """Return the number of bytes of a split's text that its tokens lose, and an example."""


class ByteCorpus:
    """A corpus whose tokens are its bytes, which are not prepared but read."""

    def __init__(self, corpus: Corpus) -> None:
        self.documents, self.split_by, self.sha256 = corpus.documents, corpus.split_by, corpus.sha256
        self.available, self._texts = corpus.available, corpus.texts
        self._ends: dict[str, NDArray[Any]] = {}

    @property
    def used(self) -> Mapping[str, int]:
        """The bytes of each split."""
        return {split: len(self._texts[split]) for split in SPLITS}

    def length(self, split: str) -> int:
        """Return the number of bytes of a split."""
        return len(self._texts[split])

    def tokens(self, split: str) -> NDArray[Any]:
        """Return the bytes of a split."""
        return np.frombuffer(self._texts[split], np.uint8)

    def ends(self, split: str) -> NDArray[Any]:
        """Return the place behind each separator, which a byte 0 within a document is, too."""
        if split not in self._ends:  # every batch asks
            self._ends[split] = np.flatnonzero(self.tokens(split) == SEPARATOR[0]) + 1
        return self._ends[split]

    def num_bytes(self, split: str) -> int:
        """Return the number of bytes of a split."""
        return len(self._texts[split])

    def text(self, split: str) -> bytes:
        """Return the text of a split."""
        return self._texts[split]

    def lost(self, split: str) -> tuple[int, str]:
        """Return that nothing is lost."""
        return 0, ""


@lru_cache(maxsize=4)
def open_tokens(source: Source, eval_bytes: int | None, tokenizer: Tokenizer) -> TokenCorpus:
    """Open the tokens of a source; make them once, in the user's cache, where that costs something."""
    if isinstance(tokenizer, ByteTokenizer):
        return ByteCorpus(read_corpus(source, eval_bytes))
    return open_prepared(source, eval_bytes, tokenizer)


@lru_cache(maxsize=4)
def fit_word_tokenizer(source: Source, vocab_size: int) -> WordTokenizer:
    """Return the tokenizer of the most frequent words of a corpus."""
    return word_tokenizer(source, vocab_size)


@lru_cache(maxsize=64)
def is_recoverable(lost: int, example: str, size: int, split: str, location: str) -> bool:
    """Return whether a split's text can be decoded from its tokens; log a warning about lost text otherwise.

    Bits per byte of other text are wrong: the tokens cost fewer bits than the text would. At the extreme, a text of
    unknown words alone costs nothing.
    """
    if lost <= _MAX_LOST * size:
        return True
    loss = f"the tokenizer loses {lost / size:.1%} of the {split} text, as {example}"
    _log.warning("%s: %s: bits per byte would be wrong and are left out", location, loss)
    return False
