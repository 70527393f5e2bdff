"""Images as rows of grey pixels.

B batch, T time (pixels in scan order).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Inputs: TypeAlias = Literal["words", "numbers"]
GREYS = 256


def greys(pixels_BT: NDArray[np.uint8], inputs: Inputs) -> Tensor:
    """Return pixels as words [B, T] of 256 greys, or as numbers [B, T] from -1 to 1."""
    if inputs == "words":
        return torch.from_numpy(pixels_BT.astype(np.int64))
    return torch.from_numpy(pixels_BT.astype(np.float32)) / 127.5 - 1
