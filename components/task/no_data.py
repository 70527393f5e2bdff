"""The task of a language model that was imported without its data."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NoReturn

from archlab import ArchlabError, Count, register
from archlab.data.tokenizers import UNKNOWN_TOKENS, ModelTokens, Tokenizer, load_tokenizer

from ._tokenized import TokenizedTask


def refuse_data(*_: Any, **__: Any) -> NoReturn:
    """Raise ArchlabError for every request of data."""
    raise ArchlabError("an imported model has no data of its own: name some, as in 'task={type: text, path: FOLDER}'")


@register("task", "no_data")
class NoData(TokenizedTask):
    """A tokenizer without a text: the task of a language model that was imported from another library.

    Raises ArchlabError if data are requested, as training and evaluation do, and for text without a tokenizer.

    Args:
        vocab_size: Number of tokens of the model's vocabulary, which may exceed the tokenizer's.
        tokenizer: `bytes`, or the path of a tokenizer.json; null if the meaning of the tokens is unknown.
        special_tokens: Whether the tokenizer's own special tokens are added to a text, as by the library it is from.
    """

    check = refuse_data
    batch = refuse_data
    eval_batches = refuse_data

    def __init__(self, *, vocab_size: Count, tokenizer: str | None = None, special_tokens: bool = True) -> None:
        self.vocab_size, self.special_tokens = vocab_size, special_tokens
        self.known_tokenizer = tokenizer

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read on first use."""
        if self.known_tokenizer is None:
            raise ArchlabError("this model was imported without a tokenizer: import it again with --tokenizer FILE")
        return load_tokenizer(self.known_tokenizer, self.special_tokens)

    def model_tokens(self) -> ModelTokens:
        """Return the vocabulary, which may be unknown."""
        return UNKNOWN_TOKENS if self.known_tokenizer is None else super().model_tokens()
