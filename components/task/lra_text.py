"""B batch, T time (context)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from archlab import register
from archlab.components.task._folders import FileTask
from archlab.data.class_folders import Labelled, by_hash, class_files, require_filled
from archlab.data.formats import read_file
from archlab.data.splits import Overflow

from ._padded import fitted, padded
from ._samples import Visit

CLASSES = ("neg", "pos")
SHARE = 0.1


@register("task", "lra_text")
class LongRangeText(FileTask):
    """Tell good reviews of films from bad by their bytes, Long Range Arena's text classification (arXiv:2011.04006).

    `path` is the folder aclImdb of the Large Movie Review Dataset, with train/pos, train/neg, test/pos and test/neg.
    A review stands at the end of a sample, behind bytes 0; longer ones are refused or cut behind `train.context` bytes.
    Deviations: a tenth of the train reviews, by their names' hash, is validation; in the paper's code it is the test.
    """

    vocab_size = 256
    num_classes = 2

    def __init__(self, *, path: str, too_long: Overflow = "refuse") -> None:
        self.path, self.too_long = path, too_long

    @property
    def files(self) -> dict[str, list[Labelled]]:
        """The files of each split, listed when first asked for."""
        return _listed(self.path)

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return bytes [B, T] and classes [B], 1 for a good review."""
        files = [self.files[split][number] for number in numbers]
        texts = [fitted(read_file(Path(file.path)), context, self.too_long, file.path) for file in files]
        return padded(texts, context), torch.tensor([file.label for file in files])


@cache
def _listed(path: str) -> dict[str, list[Labelled]]:
    root = Path(path).expanduser()
    parts = by_hash(class_files(root / "train", CLASSES, [".txt"]), {"validation": SHARE})
    parts["test"] = class_files(root / "test", CLASSES, [".txt"])
    require_filled(root, parts, CLASSES)
    return parts
