"""B batch, C channels, T pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, register
from archlab.data.formats import read_file
from archlab.data.images import GREYS, Inputs, greys
from archlab.data.splits import SPLITS

from ._samples import SampleTask, Visit

PIXELS, RECORD = 32 * 32, 1 + 3 * 32 * 32
TRAIN_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
SHARE = 0.1


@register("task", "lra_image")
class LongRangeImage(SampleTask):
    """Tell the images of CIFAR-10 apart by grey pixels, Long Range Arena's image classification (arXiv:2011.04006).

    `path` is the folder cifar-10-batches-bin, the data set's binary version; train.context is its 1024 pixels. The last
    tenth of the train images is validation. Inputs are words [B, 1024] below 256, or numbers [B, 1024] from -1 to 1.
    """

    num_classes = 10

    def __init__(self, *, path: str, inputs: Inputs = "words") -> None:
        self.inputs, self.vocab_size = inputs, GREYS if inputs == "words" else None
        self.path = path

    def size(self, split: str) -> int:
        """Return the number of images of a split."""
        return len(_read(self.path)[split])

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is the pixels of an image."""
        if context != PIXELS:
            raise ArchlabError(f"{self.path}: an image has {PIXELS} pixels, which train.context {context} has to be")

    def describe(self) -> dict[str, Any]:
        """Return the images as data: how many each split has, and the SHA-256 of all."""
        parts = _read(self.path)
        sha256 = hashlib.sha256(b"".join(parts[split].tobytes() for split in SPLITS)).hexdigest()
        return {"source": self.path, **super().describe(), "sha256": sha256}

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return pixels [B, T] and classes [B]."""
        records = _read(self.path)[split][list(numbers)]
        colours_BCT = records[:, 1:].reshape(-1, 3, PIXELS)
        greys_BT = np.rint((colours_BCT * GREY[:, None]).sum(1)).astype(np.uint8)
        return greys(greys_BT, self.inputs), torch.from_numpy(records[:, 0].astype(np.int64))


@cache
def _read(path: str) -> dict[str, NDArray[np.uint8]]:
    """Return a class and three planes of pixels for every image of each split."""
    root = Path(path).expanduser()
    train = np.concatenate([_records(root / name) for name in TRAIN_FILES])
    held_out = int(len(train) * SHARE)
    parts = {"train": train[:-held_out], "validation": train[-held_out:], "test": _records(root / "test_batch.bin")}
    for split, records in parts.items():
        if not len(records):
            raise ArchlabError(f"{root}: the {split} split is empty: there are too few images")
    return parts


def _records(file: Path) -> NDArray[np.uint8]:
    data = np.frombuffer(read_file(file), np.uint8)
    if not len(data) or len(data) % RECORD:
        raise ArchlabError(
            f"{file}: has {len(data)} bytes, not whole images of {RECORD}: it is cut off or another file"
        )
    records = data.reshape(-1, RECORD)
    if records[:, 0].max() > 9:
        raise ArchlabError(f"{file}: has the class {records[:, 0].max()}, where CIFAR-10 has 0 to 9")
    return records
