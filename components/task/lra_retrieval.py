"""B batch, T time (context)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, register
from archlab.data.splits import SPLITS, Overflow

from ._padded import fitted, padded
from ._rows import RowTask
from ._samples import Visit

FILES = {split: f"new_aan_pairs.{name}.tsv" for split, name in zip(SPLITS, ("train", "eval", "test"), strict=True)}
SEPARATOR = 256
LABELS = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}


@register("task", "lra_retrieval")
class LongRangeRetrieval(RowTask):
    """Tell whether one paper cites another by their bytes, Long Range Arena's retrieval (arXiv:2011.04006).

    `path` is a folder with new_aan_pairs.train.tsv, .eval.tsv and .test.tsv, whose rows are a label, two names and two
    texts. A sample ends with the first text, word 256, and the second, behind words 0; each has half of train.context,
    and longer ones are refused or cut.
    Deviations: one model reads both texts in a row; in the paper it reads each alone, and a classifier compares.
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
            raise ArchlabError(f"lra_retrieval: two texts need 3 words, not train.context {context}")

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return words [B, T] and classes [B], 1 where one cites the other."""
        read = self.named_rows(split, numbers)
        texts = [self._pair(name, fields[3:], (context - 1) // 2) for name, fields in read]
        return padded(texts, context), torch.tensor([_label(name, fields[0]) for name, fields in read])

    def _pair(self, name: str, texts: Sequence[bytes], room: int) -> NDArray[np.int64]:
        first, second = (fitted(text, room, self.too_long, name).astype(np.int64) for text in texts)
        return np.concatenate((first, [SEPARATOR], second))


def _label(name: str, label: bytes) -> int:
    if label not in LABELS:
        raise ArchlabError(f"{name}: the label {label.decode(errors='replace')!r} is neither 0 nor 1")
    return LABELS[label]
