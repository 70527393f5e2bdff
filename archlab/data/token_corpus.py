"""The tokens of a corpus, encoded once per process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from archlab.data.corpus import Source, read_corpus
from archlab.data.tokenizers import Tokenizer, WordTokenizer, load_tokenizer


def corpus_tokenizer(source: Source, eval_bytes: int | None, tokenizer: str, word_vocab_size: int | None) -> Tokenizer:
    """Return a corpus's tokenizer: its own words if `word_vocab_size` is set, otherwise the one named `tokenizer`."""
    if word_vocab_size is None:
        return load_tokenizer(tokenizer)
    return _fit_word_tokenizer(source, eval_bytes, word_vocab_size)


@lru_cache(maxsize=12)
def read_tokens(
    source: Source, eval_bytes: int | None, tokenizer: str, word_vocab_size: int | None, split: str
) -> NDArray[Any]:
    """Read and encode a split of a corpus, as the smallest type that holds its tokens."""
    corpus = read_corpus(source, eval_bytes, tokenizer != "bytes")
    return corpus_tokenizer(source, eval_bytes, tokenizer, word_vocab_size).encode_corpus(corpus.texts[split])


@lru_cache(maxsize=4)
def _fit_word_tokenizer(source: Source, eval_bytes: int | None, vocab_size: int) -> WordTokenizer:
    # The training text alone: the vocabulary must not know the words of held-out text.
    return WordTokenizer(read_corpus(source, eval_bytes, True).texts["train"], vocab_size)
