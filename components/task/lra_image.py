"""B batch, C channels, T pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, register
from archlab.data.folders import file_stamp
from archlab.data.formats import read_file
from archlab.data.images import GRAY_LEVELS, PixelInputs, encode_gray
from archlab.data.splits import SPLITS

from ._samples import SampleTask, Visit

PIXELS, RECORD = 32 * 32, 1 + 3 * 32 * 32  # a record is the class, then the red, green and blue plane
TRAIN_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
VALIDATION_FRACTION = 0.1


@register("task", "lra_image")
class LongRangeImage(SampleTask):
    """Classify CIFAR-10 by gray pixels in scan order, Long Range Arena's image classification (arXiv:2011.04006).

    An image is 1024 pixels, which train.context must be. The last tenth of the train images is validation.

    Args:
        path: Folder cifar-10-batches-bin, the binary version of the data set.
        inputs: `words` for gray levels as tokens [B, 1024] below 256, `numbers` for values [B, 1024] in [-1, 1].
    """

    tokens = "gray levels"

    num_classes = 10

    def __init__(self, *, path: str, inputs: PixelInputs = "words") -> None:
        self.inputs, self.vocab_size = inputs, GRAY_LEVELS if inputs == "words" else None
        self.path = path

    def size(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(_read(self.path)[split])

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is the number of pixels of an image."""
        if context != PIXELS:
            raise ArchlabError(f"{self.path}: an image has {PIXELS} pixels, which train.context {context} has to be")

    def describe(self) -> dict[str, Any]:
        """Return the images as data: the number of each split, and the SHA-256 of all."""
        splits = _read(self.path)
        sha256 = hashlib.sha256(b"".join(splits[split].tobytes() for split in SPLITS)).hexdigest()
        return {"source": self.path, **super().describe(), "sha256": sha256}

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return pixels [B, T] and classes [B]."""
        records = _read(self.path)[split][list(indices)]
        colors_BCT = records[:, 1:].reshape(-1, 3, PIXELS)
        gray_BT = np.rint((colors_BCT * LUMA[:, None]).sum(1)).astype(np.uint8)
        return encode_gray(gray_BT, self.inputs), torch.from_numpy(records[:, 0].astype(np.int64))


def _read(path: str) -> dict[str, NDArray[np.uint8]]:
    """Read the records of each split: a class and three planes of pixels per image."""
    root = Path(path).expanduser()
    return _read_splits(root, tuple(file_stamp(root / name) for name in (*TRAIN_FILES, "test_batch.bin")))


@lru_cache(maxsize=2)
def _read_splits(root: Path, stamps: tuple[tuple[int, ...], ...]) -> dict[str, NDArray[np.uint8]]:
    # Read again where the files' times or sizes, the stamps, have changed.
    train = np.concatenate([_read_records(root / name) for name in TRAIN_FILES])
    held_out = int(len(train) * VALIDATION_FRACTION)
    test = _read_records(root / "test_batch.bin")
    splits = {"train": train[:-held_out], "validation": train[-held_out:], "test": test}
    for split, records in splits.items():
        if not len(records):
            raise ArchlabError(f"{root}: the {split} split is empty: there are too few images")
    return splits


def _read_records(file: Path) -> NDArray[np.uint8]:
    data = np.frombuffer(read_file(file), np.uint8)
    if not len(data) or len(data) % RECORD:
        raise ArchlabError(
            f"{file}: has {len(data)} bytes, not whole images of {RECORD}: it is truncated or another file"
        )
    records = data.reshape(-1, RECORD)
    if records[:, 0].max() > 9:
        raise ArchlabError(f"{file}: has the class {records[:, 0].max()}, where CIFAR-10 has 0 to 9")
    return records
