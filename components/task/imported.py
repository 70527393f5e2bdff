"""What a model was made for that came without its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from archlab.domains import Count
from archlab.errors import ArchlabError
from archlab.registry import register

from ._base import Task
from ._tokenizer import ByteTokenizer, Decoder, FileTokenizer, Tokenizer


def without_data(*_: Any, **__: Any) -> NoReturn:
    """Raise ArchlabError, whatever was asked."""
    raise ArchlabError("an imported model has no data of its own: name some, as in 'task={type: text, path: FOLDER}'")


@register("task", "imported")
class Imported(Task):
    """Words to go on with, and no text of its own: what a checkpoint of another library brings along.

    `tokenizer` is bytes or a tokenizer.json. Raises ArchlabError where data are asked for.
    """

    predicts_next = True
    metrics = ("loss", "bpb")
    check = without_data
    batch = without_data
    eval_batches = without_data

    def __init__(self, *, vocab_size: Count, tokenizer: str = "bytes") -> None:
        self.vocab_size, self.tokenizer_name = vocab_size, tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into words, read when first asked for."""
        return ByteTokenizer() if self.tokenizer_name == "bytes" else FileTokenizer(self.tokenizer_name)

    def encode(self, text: str) -> list[int]:
        """Return the words of a text."""
        return self.tokenizer.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of words."""
        return self.tokenizer.decode(tokens)

    def decoder(self) -> Decoder:
        """Return a decoder for words that arrive one at a time."""
        return self.tokenizer.decoder()
