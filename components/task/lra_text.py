"""B batch, T time (context)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from archlab import register
from archlab.components.task._folders import FileTask
from archlab.data.class_folders import list_files, require_complete, split_by_hash
from archlab.data.formats import read_file
from archlab.data.labeled_files import LabeledFile
from archlab.data.padding import encode_bytes, left_pad
from archlab.data.splits import Overflow

from ._samples import Visit

CLASSES = ("neg", "pos")
VALIDATION_FRACTION = 0.1


@register("task", "lra_text")
class LongRangeText(FileTask):
    """Classify the sentiment of film reviews by their bytes, Long Range Arena's text classification (arXiv:2011.04006).

    A review is padded with bytes 0 on the left.

    Deviations: 1 in 10 train reviews is validation, by the SHA-256 of their names; in the paper's code it is the test.

    Args:
        path: Folder aclImdb of the Large Movie Review Dataset, with train/pos, train/neg, test/pos and test/neg.
        too_long: `refuse` raises an error for a review longer than train.context, `cut` truncates it.
    """

    vocab_size = 256
    num_classes = 2

    def __init__(self, *, path: str, too_long: Overflow = "refuse") -> None:
        self.path, self.too_long = path, too_long

    @cached_property
    def files(self) -> dict[str, list[LabeledFile]]:
        """The files of each split, listed on first use."""
        return _list_reviews(self.path)

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return bytes [B, T] and classes [B], 1 for a positive review."""
        files = [self.files[split][index] for index in indices]
        texts = [encode_bytes(read_file(Path(file.path)), context, self.too_long, file.path) for file in files]
        return left_pad(texts, context), torch.tensor([file.label for file in files])


def _list_reviews(path: str) -> dict[str, list[LabeledFile]]:
    root = Path(path).expanduser()
    splits = split_by_hash(list_files(root / "train", CLASSES, [".txt"]), {"validation": VALIDATION_FRACTION})
    splits["test"] = list_files(root / "test", CLASSES, [".txt"])
    require_complete(root, splits, CLASSES)
    return splits
