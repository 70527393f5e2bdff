"""Tokenizers by name."""

from __future__ import annotations

from pathlib import PurePath

from archlab.data.tokenizers.base import Tokenizer
from archlab.data.tokenizers.byte import ByteTokenizer
from archlab.data.tokenizers.hugging_face import HuggingFaceTokenizer
from archlab.data.tokenizers.word import VOCABULARY, load_words


def load_tokenizer(name: str, special_tokens: bool = False) -> Tokenizer:
    """Return a tokenizer that needs no corpus: `bytes`, or the path of a tokenizer.json or of a vocabulary.json."""
    if name == "bytes":
        return ByteTokenizer()
    return load_words(name) if PurePath(name).name == VOCABULARY else HuggingFaceTokenizer(name, special_tokens)


def vocab_size_problem(tokenizer: str, vocab_size: int | None) -> str:
    """Return why a tokenizer and a number of words do not go together, or nothing: `words` alone takes one."""
    if tokenizer != "words" and vocab_size is not None:
        return f"vocab_size {vocab_size} is of the tokenizer 'words'; {tokenizer!r} has its own"
    is_missing = tokenizer == "words" and vocab_size is None
    return "the tokenizer 'words' needs vocab_size, the number of words to keep" if is_missing else ""
