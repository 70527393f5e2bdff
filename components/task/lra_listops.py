"""B batch, T time (context)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, register

from ._padded import padded
from ._rows import RowTask
from ._samples import Visit
from ._trees import WORDS

FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
NUMBERS = {word.encode(): number for number, word in enumerate(WORDS) if word}


@register("task", "lra_listops")
class LongRangeListOps(RowTask):
    """Say what an expression in lists comes to, from the files that Long Range Arena published (arXiv:2011.04006).

    `path` is a folder with basic_train.tsv, basic_val.tsv and basic_test.tsv: a row of titles, then expressions and
    digits. Words are those of the task listops; the brackets that only show how an expression is read are left out.
    An expression stands at the end of a sample, behind words 0; one longer than train.context is refused by name.
    """

    vocab_size = len(WORDS)
    num_classes = 10
    names = FILES
    num_fields = 2
    header = 1

    def __init__(self, *, path: str) -> None:
        self.path = path

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return words [B, T] and digits [B]."""
        read = self.named_rows(split, numbers)
        words = [_expression(name, fields[0], context) for name, fields in read]
        return padded(words, context), torch.tensor([_digit(name, fields[1]) for name, fields in read])


def _expression(name: str, source: bytes, context: int) -> NDArray[np.uint8]:
    words = [word for word in source.split() if word not in (b"(", b")")]
    if len(words) > context:
        raise ArchlabError(f"{name}: has {len(words)} words, more than train.context {context}")
    for word in words:
        if word not in NUMBERS:
            raise ArchlabError(f"{name}: {word.decode(errors='replace')!r} is no word of ListOps")
    return np.array([NUMBERS[word] for word in words], np.uint8)


def _digit(name: str, target: bytes) -> int:
    if len(target) != 1 or not target.isdigit():
        raise ArchlabError(f"{name}: {target.decode(errors='replace')!r} is no digit")
    return int(target)
