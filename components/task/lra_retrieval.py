"""B batch, T time (context)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, register
from archlab.data.padding import encode_bytes, left_pad
from archlab.data.splits import SPLITS, Overflow

from ._rows import RowTask
from ._samples import Visit

FILES = {split: f"new_aan_pairs.{name}.tsv" for split, name in zip(SPLITS, ("train", "eval", "test"), strict=True)}
SEPARATOR = 256  # the first token that is not a byte
LABELS = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}


@register("task", "lra_retrieval")
class LongRangeRetrieval(RowTask):
    """Classify by their bytes whether one paper cites another, Long Range Arena's retrieval (arXiv:2011.04006).

    A sample is the first text, token 256 and the second text, each at most half of train.context, padded with tokens 0
    on the left.

    Deviations: one model reads both texts in a row; in the paper it encodes each alone, and a classifier compares them.

    Args:
        path: Folder with new_aan_pairs.train.tsv, .eval.tsv and .test.tsv, rows of a label, two names and two texts.
        too_long: `refuse` raises an error for a text longer than half of train.context, `cut` truncates it.
    """

    vocab_size = 257
    num_classes = 2
    names = FILES
    num_fields = 5

    def __init__(self, *, path: str, too_long: Overflow = "refuse") -> None:
        self.path, self.too_long = path, too_long

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless a byte of each text fits."""
        if context < 3:
            raise ArchlabError(f"lra_retrieval: two texts need 3 tokens, not train.context {context}")

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return tokens [B, T] and classes [B], 1 if one paper cites the other."""
        rows = self.read_rows(split, indices)
        pairs = [self._encode_pair(location, fields[3:], (context - 1) // 2) for location, fields in rows]
        return left_pad(pairs, context), torch.tensor([_parse_label(location, fields[0]) for location, fields in rows])

    def _encode_pair(self, location: str, texts: Sequence[bytes], max_bytes: int) -> NDArray[np.int64]:
        first, second = (encode_bytes(text, max_bytes, self.too_long, location).astype(np.int64) for text in texts)
        return np.concatenate((first, [SEPARATOR], second))


def _parse_label(location: str, label: bytes) -> int:
    if label not in LABELS:
        raise ArchlabError(f"{location}: the label {label.decode(errors='replace')!r} is neither 0 nor 1")
    return LABELS[label]
