"""The tokenizer whose tokens are bytes."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from archlab.data.tokenizers.base import SEPARATOR, Lost
from archlab.data.tokenizers.model_tokens import ModelTokens


@dataclass(frozen=True)
class ByteTokenizer:
    """Encodes text as its UTF-8 bytes."""

    vocab_size: ClassVar[int] = 256
    prefix: ClassVar[Sequence[int]] = ()

    def model_tokens(self) -> ModelTokens:
        """Return that tokens mean bytes."""
        return ModelTokens("bytes")

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text; bytes that Python decoded as surrogates are restored."""
        return list(text.encode("utf-8", "surrogateescape"))

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the bytes of a corpus, separators included."""
        return np.frombuffer(text, np.uint8)

    def encode_documents(self, texts: Sequence[bytes], *, ends_corpus: bool = True) -> list[NDArray[Any]]:
        """Return the bytes of each document, and a separator after each but the last of a corpus."""
        ends = [SEPARATOR] * (len(texts) - 1) + [b"" if ends_corpus else SEPARATOR]
        return [np.frombuffer(text + end, np.uint8) for text, end in zip(texts, ends, strict=True)]

    def num_bytes(self, text: bytes) -> int:
        """Return the number of bytes, separators included."""
        return len(text)

    def num_bytes_of(self, tokens: Sequence[int]) -> int:
        """Return the number of tokens."""
        return len(tokens)

    def lost(self, text: bytes) -> Lost:
        """Return nothing."""
        return Lost()

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes, with U+FFFD in place of invalid UTF-8."""
        return _to_bytes(tokens).decode(errors="replace")

    def decoder(self, context: Sequence[int] = ()) -> ByteDecoder:
        """Return a decoder that emits a character with its last byte."""
        return ByteDecoder()


class ByteDecoder:
    """Decodes bytes one at a time; a character is emitted with its last byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        return self._decoder.decode(_to_bytes([token]))

    def finish(self) -> str:
        """Return U+FFFD if the bytes end within a character."""
        return self._decoder.decode(b"", final=True)


def _to_bytes(tokens: Sequence[int]) -> bytes:
    # A model may have a larger vocabulary than the bytes. 0xFF is never valid UTF-8, so such tokens decode to U+FFFD.
    return bytes(token if token < ByteTokenizer.vocab_size else 0xFF for token in tokens)
