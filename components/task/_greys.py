"""Images as rows of grey pixels.

B batch, T time (pixels in scan order).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._samples import SampleTask

Inputs: TypeAlias = Literal["words", "numbers"]
GREYS = 256


class GreyTask(SampleTask):
    """Name the class of an image from its pixels: words [B, T] of 256 greys, or numbers [B, T] from -1 to 1."""

    def __init__(self, inputs: Inputs) -> None:
        self.vocab_size = GREYS if inputs == "words" else None

    def greys(self, pixels_BT: NDArray[np.uint8]) -> Tensor:
        """Return pixels as inputs."""
        if self.vocab_size:
            return torch.from_numpy(pixels_BT.astype(np.int64))
        return torch.from_numpy(pixels_BT.astype(np.float32)) / 127.5 - 1

    def example(self, batch_size: int, context: int, device: str | torch.device) -> Tensor:
        """Return inputs of the right shape and type with nothing in them."""
        if self.vocab_size:
            return super().example(batch_size, context, device)
        return torch.zeros(batch_size, context, device=device)
