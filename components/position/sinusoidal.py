from __future__ import annotations

import torch
from torch import Tensor

from archlab import Positive, register
from archlab.ops.rotary import rotary_angles

from ._base import Position


@register("position", "sinusoidal")
class SinusoidalPosition(Position):
    """Sines and cosines of the position added to the embedding, interleaved along D (arXiv:1706.03762).

    x: [B, T, D] -> [B, T, D].  Raises ValueError where D is odd.

    Args:
        base: Base of the geometric series of frequencies.
    """

    place = "embedding"

    def __init__(self, num_heads: int, head_dim: int, *, base: Positive = 10000.0) -> None:
        super().__init__()
        dim = num_heads * head_dim
        if dim % 2:
            raise ValueError(f"dim {dim} is odd: sinusoidal positions fill pairs of features")
        self.num_pairs, self.base = dim // 2, base

    def embed(self, x_BTD: Tensor, position_BT: Tensor) -> Tensor:
        """Return x plus the sines and cosines of its positions."""
        angle = rotary_angles(position_BT, self.num_pairs, self.base)
        return x_BTD + torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).to(x_BTD.dtype)
