"""What a model was made for that came without its data."""

from __future__ import annotations

from typing import Any, NoReturn

from archlab import ArchlabError, Count, register

from ._tokenized import TokenizedTask


def without_data(*_: Any, **__: Any) -> NoReturn:
    """Raise ArchlabError, whatever was asked."""
    raise ArchlabError("an imported model has no data of its own: name some, as in 'task={type: text, path: FOLDER}'")


@register("task", "no_data")
class NoData(TokenizedTask):
    """Words to go on with, and no text of its own: what a checkpoint of another library brings along.

    `tokenizer` is bytes or a tokenizer.json. Raises ArchlabError where data are asked for.
    """

    check = without_data
    batch = without_data
    eval_batches = without_data

    def __init__(self, *, vocab_size: Count, tokenizer: str = "bytes") -> None:
        self.vocab_size, self.tokenizer_name = vocab_size, tokenizer
