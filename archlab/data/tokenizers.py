"""Between text and the words of a model: bytes, the words of a corpus, or a tokenizer's file."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from archlab.errors import ArchlabError, one_line

SEPARATOR = b"\0"
_ENDS = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]", "<|im_end|>")


class Decoder(Protocol):
    """Turns words into text as they come."""

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        ...

    def finish(self) -> str:
        """Return what is left at the end."""


class Tokenizer(Protocol):
    """Turns text into numbers below `vocab_size`, and back."""

    @property
    def vocab_size(self) -> int:
        """How many words there are."""

    def encode(self, text: str) -> list[int]:
        """Return the words of a text."""

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the words of a corpus, whose documents are separated by a byte 0."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of words."""

    def decoder(self) -> Decoder:
        """Return a decoder for words that come one at a time."""


class ByteTokenizer:
    """Every byte is a word."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode("utf-8", "surrogateescape"))

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the bytes, separators included."""
        return np.frombuffer(text, np.uint8)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes, with U+FFFD for what is not UTF-8."""
        return _as_bytes(tokens).decode(errors="replace")

    def decoder(self) -> ByteDecoder:
        """Return a decoder that shows a character with its last byte."""
        return ByteDecoder()


class ByteDecoder:
    """Turns bytes into text as they come; a character appears with its last byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        return self._decoder.decode(_as_bytes([token]))

    def finish(self) -> str:
        """Return U+FFFD where the bytes end within a character."""
        return self._decoder.decode(b"", final=True)


def _as_bytes(tokens: Sequence[int]) -> bytes:
    # 0xFF occurs in no UTF-8 text, so a word beyond the bytes, from a wider model, shows as U+FFFD.
    return bytes(token if token < ByteTokenizer.vocab_size else 0xFF for token in tokens)


class HuggingFaceTokenizer:
    """The words of a `tokenizer.json`, as the tokenizers library writes it.

    Documents end with the file's own end-of-text word where it has one. Raises ArchlabError naming a file that is
    missing or damaged.
    """

    def __init__(self, path: str) -> None:
        self.path, self.tokenizer = path, _load(path)
        known = (self.tokenizer.token_to_id(word) for word in _ENDS)
        self.end = next((token for token in known if token is not None), None)

    @property
    def vocab_size(self) -> int:
        """The number of words, special ones included."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Return the words of a text, without special ones."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the words of all documents, each with the end-of-text word behind it."""
        documents = [part.decode() for part in text.split(SEPARATOR)]
        ends = [] if self.end is None else [self.end]
        found = (encoding.ids + ends for encoding in self.tokenizer.encode_batch(documents, add_special_tokens=False))
        return np.concatenate([np.asarray(ids, dtype=_smallest(self.vocab_size)) for ids in found])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of words."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def decoder(self) -> IncrementalDecoder:
        """Return a decoder that shows text when it can no longer change."""
        return IncrementalDecoder(self)


class IncrementalDecoder:
    """Decodes all words so far, and returns what that adds; an unfinished character waits for the next word."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.tokens, self.shown = tokenizer, [], ""  # type: tuple[Tokenizer, list[int], str]

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens)
        return "" if text.endswith("\ufffd") else self._new(text)

    def finish(self) -> str:
        """Return what is left, unfinished or not."""
        return self._new(self.tokenizer.decode(self.tokens)) if self.tokens else ""

    def _new(self, text: str) -> str:
        new, self.shown = text[len(self.shown) :], text
        return new


class WordTokenizer:
    """The most frequent words of a text between blanks, `<unk>` for the others and `<eos>` for the end of a line."""

    def __init__(self, text: bytes, vocab_size: int) -> None:
        counts = Counter(split_words(text))
        kept = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if word != "<unk>"]
        self.words = ["<unk>", *kept[: vocab_size - 1]]
        self.vocab_size, self.places = vocab_size, {word: place for place, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        """Return the words of a text, the end of its last line left out."""
        return [self.places.get(word, 0) for word in split_words(text.encode())][:-1]

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the words of all documents."""
        return np.fromiter((self.places.get(word, 0) for word in split_words(text)), _smallest(self.vocab_size))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words with blanks between them, lines ended."""
        words = [self.words[token] if token < len(self.words) else "<unk>" for token in tokens]
        return "".join("\n" if word == "<eos>" else f"{word} " for word in words)

    def decoder(self) -> IncrementalDecoder:
        """Return a decoder for words that come one at a time."""
        return IncrementalDecoder(self)


def split_words(text: bytes) -> Iterable[str]:
    """Yield what stands between the blanks of a text, and `<eos>` at the end of every line."""
    for line in text.replace(SEPARATOR, b"\n").decode(errors="replace").splitlines():
        yield from line.split()
        yield "<eos>"


@lru_cache(maxsize=8)
def _load(path: str) -> Any:
    try:
        from tokenizers import Tokenizer as Rules
    except ImportError as error:
        raise ArchlabError(f"{path}: needs the tokenizers library: pip install tokenizers") from error
    if not Path(path).expanduser().is_file():
        raise ArchlabError(f"{path}: no such tokenizer file (tokenizer.json)")
    try:
        return Rules.from_file(str(Path(path).expanduser()))
    except Exception as error:  # the library raises bare Exceptions
        raise ArchlabError(f"{path}: is no tokenizer.json: {one_line(error)}") from error


def _smallest(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if vocab_size <= 2**16 else np.uint32
