"""The tokenizer whose tokens are the words of a corpus."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archlab.data.tokenizers.base import SEPARATOR, Lost, MissingTokenizerError, token_dtype
from archlab.data.tokenizers.model_tokens import ModelTokens
from archlab.errors import ArchlabError
from archlab.runtime.progress import report_progress

VOCABULARY = "vocabulary.json"
_LONG, _REPORT_EVERY = 8_000_000, 100_000  # bytes of a text that takes seconds, and words between two reports


class WordTokenizer:
    """The most frequent whitespace-separated words of a text, `<unk>` for the others, `<eos>` for the end of a line."""

    prefix: Sequence[int] = ()

    def __init__(self, text: bytes, vocab_size: int) -> None:
        self._set_most_frequent(Counter(_report_words("counting the words", split_words(text), len(text))), vocab_size)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], vocab_size: int) -> WordTokenizer:
        """Return the tokenizer of the most frequent of counted words, `<eos>` among them."""
        tokenizer = cls.__new__(cls)
        tokenizer._set_most_frequent(counts, vocab_size)
        return tokenizer

    def _set_most_frequent(self, counts: Mapping[str, int], vocab_size: int) -> None:
        # Ties are broken by the word itself, so that the vocabulary does not depend on the order of documents.
        kept = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if word != "<unk>"]
        self._set_words(["<unk>", *kept[: vocab_size - 1]], vocab_size)

    @classmethod
    def from_words(cls, words: Sequence[str], vocab_size: int) -> WordTokenizer:
        """Return the tokenizer of a list of words, which begins with `<unk>`."""
        tokenizer = cls.__new__(cls)
        tokenizer._set_words(list(words), vocab_size)
        return tokenizer

    def _set_words(self, words: list[str], vocab_size: int) -> None:
        self.words, self.vocab_size, self.ids = words, vocab_size, {word: id_ for id_, word in enumerate(words)}
        vocabulary = {"vocab_size": vocab_size, "words": words}
        self.data = json.dumps(vocabulary, ensure_ascii=False, indent=0).encode()
        self.sha256 = hashlib.sha256(self.data).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordTokenizer) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def model_tokens(self) -> ModelTokens:
        """Return that tokens mean these words."""
        return ModelTokens("words", self.sha256, files={VOCABULARY: self.data})

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without the end of its last line."""
        return [self.ids.get(word, 0) for word in split_words(text.encode(errors="replace"))][:-1]

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the tokens of all documents."""
        words = _report_words("tokenizing", split_words(text), len(text))
        return np.fromiter((self.ids.get(word, 0) for word in words), token_dtype(self.vocab_size))

    def encode_documents(self, texts: Sequence[bytes], *, ends_corpus: bool = True) -> list[NDArray[Any]]:
        """Return the tokens of each document; its end is the end of a line."""
        ends = [b"\n"] * (len(texts) - 1) + [b"" if ends_corpus else b"\n"]
        return [self.encode_corpus(text + end) for text, end in zip(texts, ends, strict=True)]

    def num_bytes(self, text: bytes) -> int:
        """Return the number of bytes; a separator is the end of a line."""
        return len(text)

    def num_bytes_of(self, tokens: Sequence[int]) -> int:
        """Return the number of bytes of the words with a space after each, but at the end of a line."""
        text = self.decode(tokens).replace(" \n", "\n")
        return len(text.encode())

    def lost(self, text: bytes) -> Lost:
        """Return the words that are not in the vocabulary. Spaces between words are taken for one."""
        unknown = Counter(word for word in split_words(text) if word not in self.ids)
        example = f"the unknown word {unknown.most_common(1)[0][0]!r}" if unknown else ""
        sizes = {word: 1 if word == "<eos>" else len(word.encode()) for word in unknown}
        return Lost(sum(sizes[word] * count for word, count in unknown.items()), example)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the words, each followed by a space, and lines."""
        return "".join(map(self._decode_one, tokens))

    def decoder(self, context: Sequence[int] = ()) -> WordDecoder:
        """Return a decoder for tokens that arrive one at a time."""
        return WordDecoder(self)

    def _decode_one(self, token: int) -> str:
        word = self.words[token] if token < len(self.words) else "<unk>"
        return "\n" if word == "<eos>" else f"{word} "


class WordDecoder:
    """Decodes words one at a time, each by itself."""

    def __init__(self, tokenizer: WordTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        return self._tokenizer.decode([token])

    def finish(self) -> str:
        """Return nothing, since no word waits for another."""
        return ""


def _report_words(what: str, words: Iterable[str], size: int) -> Iterator[str]:
    """Yield the words of a text of `size` bytes, and report progress."""
    if size <= _LONG:
        yield from words
        return
    done, what = 0, f"{what} of {size / 1e6:,.0f} MB"
    for index, word in enumerate(words):
        if not index % _REPORT_EVERY:
            report_progress(what, min(done, size - 1), size)
        done += len(word) + 1
        yield word
    report_progress(what, size, size)


def split_words(text: bytes) -> Iterable[str]:
    """Yield the whitespace-separated words of a text, and `<eos>` at the end of every line."""
    # Not splitlines, which also ends lines at characters such as U+2028.
    for line in StringIO(text.replace(SEPARATOR, b"\n").decode(errors="replace"), newline="\n"):
        yield from line.split()
        yield "<eos>"


def load_words(path: str) -> WordTokenizer:
    """Read the vocabulary.json that a model of words carries; raise ArchlabError naming one that is damaged."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingTokenizerError(f"{path}: no such vocabulary file")
    return _load_words(path, file.read_bytes())


@lru_cache(maxsize=4)
def _load_words(path: str, data: bytes) -> WordTokenizer:
    try:
        vocabulary = json.loads(data)
        words, vocab_size = vocabulary["words"], vocabulary["vocab_size"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArchlabError(f"{path}: is not a vocabulary of words") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or len(set(words)) != len(words):
        raise ArchlabError(f"{path}: its words are not a list of different texts")
    if words[:1] != ["<unk>"] or type(vocab_size) is not int or vocab_size < len(words):
        raise ArchlabError(f"{path}: needs the word <unk> first, and a vocab_size of at least its {len(words)} words")
    return WordTokenizer.from_words(words, vocab_size)
