"""The task of a language model that was imported without its data."""

from __future__ import annotations

from typing import Any, NoReturn

from archlab import ArchlabError, Count, register

from ._tokenized import TokenizedTask


def refuse_data(*_: Any, **__: Any) -> NoReturn:
    """Raise ArchlabError for every request of data."""
    raise ArchlabError("an imported model has no data of its own: name some, as in 'task={type: text, path: FOLDER}'")


@register("task", "no_data")
class NoData(TokenizedTask):
    """A tokenizer without a text: the task of a language model that was imported from another library.

    Raises ArchlabError if data are requested, as training and evaluation do.

    Args:
        vocab_size: Number of tokens of the model's vocabulary, which may exceed the tokenizer's.
        tokenizer: `bytes`, or the path of a tokenizer.json.
    """

    check = refuse_data
    batch = refuse_data
    eval_batches = refuse_data

    def __init__(self, *, vocab_size: Count, tokenizer: str = "bytes") -> None:
        self.vocab_size, self.tokenizer_name = vocab_size, tokenizer
