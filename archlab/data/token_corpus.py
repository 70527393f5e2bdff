"""The tokens of a corpus, encoded once per process."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from archlab.data.corpus import Source, read_corpus
from archlab.data.tokenizers import ByteTokenizer, Lost, Tokenizer, WordTokenizer
from archlab.errors import ArchlabError

_log = logging.getLogger(__name__)
# Of a text's bytes. A word in a thousand that is lost changes bits per byte in the fourth digit, if at all.
_MAX_LOST = 1e-3


@lru_cache(maxsize=12)
def read_tokens(source: Source, eval_bytes: int | None, tokenizer: Tokenizer, split: str) -> NDArray[Any]:
    """Read and encode a split of a corpus, as the smallest type that holds its tokens."""
    text = _text(source, eval_bytes, tokenizer, split)
    try:
        return tokenizer.encode_corpus(text)
    except ArchlabError as error:
        raise ArchlabError(f"{source}: {error}") from error


@lru_cache(maxsize=4)
def fit_word_tokenizer(source: Source, eval_bytes: int | None, vocab_size: int) -> WordTokenizer:
    """Return the tokenizer of the most frequent words of a corpus."""
    # The training text alone: the vocabulary must not know the words of held-out text.
    return WordTokenizer(read_corpus(source, eval_bytes, True).texts["train"], vocab_size)


@lru_cache(maxsize=12)
def is_recoverable(source: Source, eval_bytes: int | None, tokenizer: Tokenizer, split: str) -> bool:
    """Tell whether a split's text can be had back from its tokens; log a warning with what is lost if it cannot.

    Bits per byte of other text are wrong: the tokens cost fewer bits than the text would. At the extreme, a text of
    unknown words alone costs nothing.
    """
    text = _text(source, eval_bytes, tokenizer, split)
    lost: Lost = tokenizer.lost(text)
    if lost.num_bytes <= _MAX_LOST * len(text):
        return True
    told = f"the tokenizer loses {lost.num_bytes / len(text):.1%} of the {split} text, as {lost.example}"
    _log.warning("%s: %s: bits per byte would be wrong and are left out", source, told)
    return False


def _text(source: Source, eval_bytes: int | None, tokenizer: Tokenizer, split: str) -> bytes:
    return read_corpus(source, eval_bytes, not isinstance(tokenizer, ByteTokenizer)).texts[split]
