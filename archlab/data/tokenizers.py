"""Tokenizers: bytes, the most frequent words of a corpus, or a tokenizer.json."""

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

SEPARATOR = b"\0"  # between the documents of a corpus
# The end-of-text tokens of GPT-2, Llama 2, Transformer-XL, Llama 3, BERT and ChatML, in order of preference.
END_OF_TEXT = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]", "<|im_end|>")


class Decoder(Protocol):
    """Decodes tokens to text one at a time."""

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        ...

    def finish(self) -> str:
        """Return the text that is still buffered."""


class Tokenizer(Protocol):
    """Encodes text as tokens below `vocab_size`, and decodes them."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the tokens of a corpus, whose documents are separated by SEPARATOR."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""

    def decoder(self) -> Decoder:
        """Return a decoder for tokens that arrive one at a time."""


class ByteTokenizer:
    """Encodes text as its UTF-8 bytes."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text; bytes that Python decoded as surrogates are restored."""
        return list(text.encode("utf-8", "surrogateescape"))

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the bytes of a corpus, separators included."""
        return np.frombuffer(text, np.uint8)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of bytes, with U+FFFD in place of invalid UTF-8."""
        return _to_bytes(tokens).decode(errors="replace")

    def decoder(self) -> ByteDecoder:
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


class HuggingFaceTokenizer:
    """A tokenizer of the tokenizers library, read from its `tokenizer.json`.

    Documents of a corpus end with the end-of-text token, if the vocabulary has one. Raises ArchlabError naming a file
    that is missing or damaged.
    """

    def __init__(self, path: str) -> None:
        self.path, self.tokenizer = path, _load_file(path)
        ids = (self.tokenizer.token_to_id(token) for token in END_OF_TEXT)
        self.end_of_text = next((id_ for id_ in ids if id_ is not None), None)

    @property
    def vocab_size(self) -> int:
        """The number of tokens, special ones included."""
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens around them."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the tokens of all documents, each followed by the end-of-text token."""
        documents = [part.decode() for part in text.split(SEPARATOR)]
        end = [] if self.end_of_text is None else [self.end_of_text]
        encodings = self.tokenizer.encode_batch(documents, add_special_tokens=False)
        return np.concatenate([np.asarray(encoding.ids + end, _token_dtype(self.vocab_size)) for encoding in encodings])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def decoder(self) -> IncrementalDecoder:
        """Return a decoder that emits complete characters only."""
        return IncrementalDecoder(self)


class IncrementalDecoder:
    """Decodes tokens one at a time: decodes all of them so far, and returns the text that is new."""

    # A token's text depends on those before it: subword decoders merge bytes into characters and insert spaces.

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.emitted = ""

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens)
        # U+FFFD at the end is a character whose last bytes are still to come.
        return "" if text.endswith("\ufffd") else self._emit(text)

    def finish(self) -> str:
        """Return the text that is still buffered, with U+FFFD for an incomplete character."""
        return self._emit(self.tokenizer.decode(self.tokens)) if self.tokens else ""

    def _emit(self, text: str) -> str:
        new, self.emitted = text[len(self.emitted) :], text
        return new


class WordTokenizer:
    """The most frequent whitespace-separated words of a text, `<unk>` for the others, `<eos>` for the end of a line."""

    def __init__(self, text: bytes, vocab_size: int) -> None:
        counts = Counter(split_words(text))
        # Ties are broken by the word itself, so that the vocabulary does not depend on the order of documents.
        kept = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if word != "<unk>"]
        self.words = ["<unk>", *kept[: vocab_size - 1]]
        self.vocab_size, self.ids = vocab_size, {word: id_ for id_, word in enumerate(self.words)}

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without the end of its last line."""
        return [self.ids.get(word, 0) for word in split_words(text.encode())][:-1]

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the tokens of all documents."""
        return np.fromiter((self.ids.get(word, 0) for word in split_words(text)), _token_dtype(self.vocab_size))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words, each followed by a space, and lines."""
        words = [self.words[token] if token < len(self.words) else "<unk>" for token in tokens]
        return "".join("\n" if word == "<eos>" else f"{word} " for word in words)

    def decoder(self) -> IncrementalDecoder:
        """Return a decoder for tokens that arrive one at a time."""
        return IncrementalDecoder(self)


def split_words(text: bytes) -> Iterable[str]:
    """Yield the whitespace-separated words of a text, and `<eos>` at the end of every line."""
    for line in text.replace(SEPARATOR, b"\n").decode(errors="replace").splitlines():
        yield from line.split()
        yield "<eos>"


def load_tokenizer(name: str) -> Tokenizer:
    """Return the tokenizer that needs no corpus: `bytes`, or the path of a tokenizer.json."""
    return ByteTokenizer() if name == "bytes" else HuggingFaceTokenizer(name)


@lru_cache(maxsize=8)
def _load_file(path: str) -> Any:
    try:
        from tokenizers import Tokenizer as TokenizersTokenizer
    except ImportError as error:
        raise ArchlabError(f"{path}: needs the tokenizers library: pip install tokenizers") from error
    if not Path(path).expanduser().is_file():
        raise ArchlabError(f"{path}: no such tokenizer file (tokenizer.json)")
    try:
        return TokenizersTokenizer.from_file(str(Path(path).expanduser()))
    except Exception as error:  # the library raises bare Exceptions
        raise ArchlabError(f"{path}: is not a tokenizer.json: {one_line(error)}") from error


def _token_dtype(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest type that holds every token: corpora are kept in memory whole."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32
