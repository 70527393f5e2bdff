"""Tokenizers of the tokenizers library, which transformers saves as tokenizer.json."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archlab.data.tokenizers.base import SEPARATOR, Lost, token_dtype
from archlab.data.tokenizers.incremental import IncrementalDecoder
from archlab.data.tokenizers.model_tokens import ModelTokens
from archlab.data.tokenizers.tokenizer_file import TokenizerFile, open_tokenizer_file, refuse
from archlab.errors import ArchlabError
from archlab.runtime.progress import EstimatedProgress, report_progress

# The end-of-text tokens of GPT-2, Llama 2, Transformer-XL, Llama 3, BERT and ChatML, in order of preference.
END_OF_TEXT = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "[SEP]", "<|im_end|>")

_GROUP, _SAMPLE = 4_000_000, 200_000  # characters


class HuggingFaceTokenizer:
    """A tokenizer of the tokenizers library, read from its `tokenizer.json`.

    Each document of a corpus ends with the end-of-text token, if the vocabulary has one. With `special_tokens` the
    tokenizer's own special tokens work as in transformers: those that it adds before a text are the `prefix`, those
    that it adds after one end a document, and those that a document spells out are special. Without it a document is
    text and nothing else: `</s>` in a web page is not the end of a document. Truncation, padding and random merges that
    a file may ask for are always off. Raises ArchlabError naming a file that is missing or damaged, or a text that has
    no tokens.
    """

    def __init__(self, path: str, special_tokens: bool = False) -> None:
        self.path, self.special_tokens = path, special_tokens
        self.file: TokenizerFile = open_tokenizer_file(path)
        self.tokenizer = self.file.tokenizer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HuggingFaceTokenizer) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.file.sha256, self.special_tokens, self.before, self.after

    @cached_property
    def vocab_size(self) -> int:
        """The number of tokens, special ones included."""
        # Not the number of entries: identifiers may have gaps.
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def before(self) -> tuple[str, ...]:
        """The special tokens that the tokenizer adds before a text of its own accord."""
        return self.file.before

    @property
    def after(self) -> tuple[str, ...]:
        """The special tokens that the tokenizer adds after a text of its own accord."""
        return self.file.after

    @cached_property
    def prefix(self) -> list[int]:
        """The special tokens that precede every text, none without `special_tokens`."""
        return self._ids_of(self.before) if self.special_tokens else []

    @cached_property
    def end(self) -> list[int]:
        """The tokens that end a document."""
        if self.special_tokens and self.after:
            return self._ids_of(self.after)
        # Special ones first: Gemma has a token </s> of HTML beside its <eos>.
        special = {token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special}
        names = sorted(END_OF_TEXT, key=lambda name: name not in special)  # stable: in the order of preference
        ids = (self.tokenizer.token_to_id(name) for name in names)
        return [id_ for id_ in ids if id_ is not None][:1]

    def _ids_of(self, names: Sequence[str]) -> list[int]:
        ids = {name: self.tokenizer.token_to_id(name) for name in names}
        for name, id_ in ids.items():
            if id_ is None:
                raise ArchlabError(f"{self.path}: its special token {name!r} is not in the vocabulary")
        return [ids[name] for name in names]

    def model_tokens(self) -> ModelTokens:
        """Return that tokens mean those of the file."""
        return ModelTokens(
            "tokenizer", self.file.sha256, self.special_tokens, self.before, self.after, self.file.contents
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt, whose special tokens are special, after the `prefix`."""
        return [*self.prefix, *self._encode([text], are_special=True)[0]]

    def encode_corpus(self, text: bytes) -> NDArray[Any]:
        """Return the tokens of all documents, each followed by the end-of-text token."""
        return np.concatenate(self.encode_documents(text.split(SEPARATOR)))

    def encode_documents(self, texts: Sequence[bytes], *, ends_corpus: bool = True) -> list[NDArray[Any]]:
        """Return the tokens of each document, followed by the end-of-text token."""
        dtype = token_dtype(self.vocab_size)
        encoded = self._encode([text.decode() for text in texts], are_special=self.special_tokens)
        return [np.asarray(ids + self.end, dtype) for ids in encoded]

    def num_bytes(self, text: bytes) -> int:
        """Return the number of bytes; separators count if a token stands for them."""
        return len(text) - (0 if self.end else text.count(SEPARATOR))

    def num_bytes_of(self, tokens: Sequence[int]) -> int:
        """Return the number of bytes of the text of tokens, where the end of a document is a separator."""
        ends = set(self.end)
        text = self.decode([token for token in tokens if token not in ends])
        return len(text.encode()) + sum(token in ends for token in tokens)

    def lost(self, text: bytes) -> Lost:
        """Return the lines that do not come back when documents are encoded and decoded, and their bytes."""
        documents = _documents(text)
        encoded = self._encode(documents, are_special=self.special_tokens)
        pairs = ((document, self.decode(ids)) for document, ids in zip(documents, encoded, strict=True))
        losses = [_difference(*pair) for pair in pairs]
        return Lost(sum(loss.num_bytes for loss in losses), next((loss.example for loss in losses if loss.example), ""))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        with refuse(f"{self.path}: cannot decode tokens"):
            return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def decoder(self, context: Sequence[int] = ()) -> IncrementalDecoder:
        """Return a decoder that emits complete characters only; the first word of a text alone has no space before."""
        return IncrementalDecoder(self.decode, context)

    def _encode(self, texts: list[str], *, are_special: bool) -> list[list[int]]:
        # Of the library's object and not an argument; set at each call, because instances share the object of a file.
        self.tokenizer.encode_special_tokens = not are_special
        total = sum(map(len, texts))
        if total <= _GROUP:
            return self._encode_group(texts) if texts else []
        estimate = EstimatedProgress(f"tokenizing {total / 1e6:,.0f} million characters", total, self._speed(texts))
        groups = (estimate.run(sum(map(len, group)), partial(self._encode_group, group)) for group in _groups(texts))
        ids = [tokens for group in groups for tokens in group]
        report_progress(estimate.what, total, total)
        return ids

    def _speed(self, texts: list[str]) -> float:
        """Return the characters that are encoded in a second, so that a bar advances within a document, too."""
        sample = max(texts, key=len)[:_SAMPLE]
        begin = time.monotonic()
        with suppress(Exception):
            self.tokenizer.encode(sample, add_special_tokens=False)
        return len(sample) / max(time.monotonic() - begin, 1e-6)

    def _encode_group(self, texts: list[str]) -> list[list[int]]:
        try:
            with refuse(self.path):
                encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        except ArchlabError:
            self._name_text_without_tokens(texts)
            raise
        return [list(encoding.ids) for encoding in encodings]

    def _name_text_without_tokens(self, texts: Sequence[str]) -> None:
        """Raise ArchlabError for the first text that cannot be encoded, which the error of a batch does not name."""
        for text in texts:
            with refuse(f"{self.path}: has no tokens for {_brief(text)}"):
                self.tokenizer.encode(text, add_special_tokens=False)


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts in groups of a few million characters, which all cores share, so that a bar can advance."""
    group, size = list[str](), 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _documents(text: bytes) -> list[str]:
    return [part.decode() for part in text.split(SEPARATOR)]


def _difference(text: str, decoded: str) -> Lost:
    # Composed and decomposed accents are the same text to Unicode, and a first space is one that decoders insert.
    text, decoded = unicodedata.normalize("NFC", text), unicodedata.normalize("NFC", decoded)
    if text in (decoded, decoded.removeprefix(" ")):
        return Lost()
    known = Counter(decoded.split("\n"))
    missing = [line for line, count in Counter(text.split("\n")).items() for _ in range(count - known[line])]
    at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), min(len(text), len(decoded)))
    example = f"{_brief(text[at:])} reads back as {_brief(decoded[at:])}"
    return Lost(sum(len(line.encode()) for line in missing), example)


def _brief(text: str) -> str:
    return repr(text if len(text) <= 24 else f"{text[:24]}...")
