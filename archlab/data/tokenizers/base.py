"""The contract of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from archlab.data.tokenizers.model_tokens import ModelTokens
from archlab.errors import ArchlabError

SEPARATOR = b"\0"  # between the documents of a corpus


class MissingTokenizerError(ArchlabError):
    """A tokenizer's file is not there."""


class Decoder(Protocol):
    """Decodes tokens to text one at a time."""

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        ...

    def finish(self) -> str:
        """Return the text that is still buffered."""


@dataclass(frozen=True)
class Lost:
    """The loss of a text's tokens: the number of lost bytes, and an example."""

    num_bytes: int = 0
    example: str = ""


class Tokenizer(Protocol):
    """Encodes text as tokens below `vocab_size`, and decodes them. Equal tokenizers have equal tokens."""

    def __hash__(self) -> int: ...

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""

    @property
    def prefix(self) -> Sequence[int]:
        """The tokens that precede every text and every window of a corpus, such as a BOS token."""

    def model_tokens(self) -> ModelTokens:
        """Return the vocabulary, to be stored with a model."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt."""

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the tokens of a corpus, whose documents are separated by SEPARATOR, without `prefix`."""

    def encode_documents(self, texts: Sequence[bytes], *, ends_corpus: bool = True) -> list[NDArray[Any]]:
        """Return the tokens of consecutive documents of a corpus, each with the separator of `encode_corpus`.

        `ends_corpus` indicates whether the last of them is the last of the corpus.
        """

    def num_bytes(self, text: bytes) -> int:
        """Return the number of bytes of a corpus that its tokens stand for."""

    def num_bytes_of(self, tokens: Sequence[int]) -> int:
        """Return the number of bytes of a corpus that these of its tokens stand for."""

    def lost(self, text: bytes) -> Lost:
        """Return the text that the tokens of a corpus lose."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""

    def decoder(self, context: Sequence[int] = ()) -> Decoder:
        """Return a decoder for tokens that arrive one at a time, after those of a `context`, which is not repeated."""


def token_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest type that holds every token: corpora are kept in memory whole."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32
