"""B batch."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, register
from archlab.components.task._samples import SampleTask, Visit
from archlab.data.sampling import epoch_order

SIDE, GRAY_LEVELS = 8, 17
SIZES = {"train": 1197, "validation": 300, "test": 300}


@register("task", "digits")
class Digits(SampleTask):
    """Classify handwritten digits: 1797 images of 8 x 8 pixels in 17 gray levels, which come with scikit-learn.

    Args:
        inputs: `image` for images [B, 1, 8, 8] in [-1, 1], `pixels` for gray levels in scan order as tokens [B, 64].
    """

    num_classes = 10

    def __init__(self, *, inputs: Literal["image", "pixels"] = "image") -> None:
        self.vocab_size = GRAY_LEVELS if inputs == "pixels" else None

    def size(self, split: str) -> int:
        """Return the number of images of a split."""
        return SIZES[split]

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is the number of pixels of an image."""
        if context != SIDE * SIDE:
            raise ArchlabError(f"digits: an image has {SIDE * SIDE} pixels, which train.context {context} has to be")

    def describe(self) -> dict[str, Any]:
        """Return the images as data: the number of each split, and the SHA-256 of all."""
        images, classes = _load()
        sha256 = hashlib.sha256(images.tobytes() + classes.tobytes()).hexdigest()
        return {"source": "scikit-learn's digits", "samples": SIZES, "sha256": sha256}

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return images, or their pixels, and digits [B]."""
        images, classes = _load()
        start = sum(list(SIZES.values())[: list(SIZES).index(split)])
        # Neighbors in the file resemble each other: splits are cut from a fixed shuffle.
        rows = epoch_order(len(images), 0, 0)[start:][list(indices)]
        pixels = torch.from_numpy(images[rows].astype(np.int64))
        inputs = pixels if self.vocab_size else pixels.view(-1, 1, SIDE, SIDE).float() / (GRAY_LEVELS // 2) - 1
        return inputs, torch.from_numpy(classes[rows].astype(np.int64))

    def example_inputs(self, batch_size: int, context: int, device: str | torch.device) -> Tensor:
        """Return zeros of the inputs' shape and type."""
        if self.vocab_size:
            return super().example_inputs(batch_size, context, device)
        return torch.zeros(batch_size, 1, SIDE, SIDE, device=device)


@cache
def _load() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return pixels [1797, 64] and digits [1797]."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise ArchlabError("digits: come with scikit-learn, which is missing: pip install scikit-learn") from None
    pixels, digits = datasets.load_digits(return_X_y=True)
    return pixels.astype(np.uint8), digits.astype(np.uint8)
