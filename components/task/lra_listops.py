"""B batch, T time (context)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, register
from archlab.data.listops import VOCABULARY
from archlab.data.padding import left_pad

from ._rows import RowTask
from ._samples import Visit

FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
TOKEN_IDS = {token.encode(): index for index, token in enumerate(VOCABULARY) if token}


@register("task", "lra_listops")
class LongRangeListOps(RowTask):
    """Evaluate a nested expression to a digit, from the files that Long Range Arena published (arXiv:2011.04006).

    Tokens are those of the task listops; the parentheses, which only show the parse, are left out. A sample is padded
    with tokens 0 on the left; an expression longer than train.context is refused by file and line.

    Args:
        path: Folder with basic_train.tsv, basic_val.tsv and basic_test.tsv, rows of an expression and a digit.
    """

    vocab_size = len(VOCABULARY)
    num_classes = 10
    names = FILES
    num_fields = 2
    header = 1

    def __init__(self, *, path: str) -> None:
        self.path = path

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return tokens [B, T] and digits [B]."""
        rows = self.read_rows(split, indices)
        tokens = [_encode(location, fields[0], context) for location, fields in rows]
        return left_pad(tokens, context), torch.tensor([_parse_digit(location, fields[1]) for location, fields in rows])


def _encode(location: str, expression: bytes, context: int) -> NDArray[np.uint8]:
    tokens = [token for token in expression.split() if token not in (b"(", b")")]
    if len(tokens) > context:
        raise ArchlabError(f"{location}: has {len(tokens)} tokens, more than train.context {context}")
    for token in tokens:
        if token not in TOKEN_IDS:
            raise ArchlabError(f"{location}: {token.decode(errors='replace')!r} is not a token of ListOps")
    return np.array([TOKEN_IDS[token] for token in tokens], np.uint8)


def _parse_digit(location: str, target: bytes) -> int:
    if len(target) != 1 or not target.isdigit():
        raise ArchlabError(f"{location}: {target.decode(errors='replace')!r} is not a digit")
    return int(target)
