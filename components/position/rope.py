from __future__ import annotations

import torch
from torch import Tensor

from archlab import Positive, TensorPlan, choice, register
from archlab.ops.dtypes import at_least_float32
from archlab.ops.rotary import rotary_cos_sin

from ._base import Position


@register("position", "rope", search={"base": choice(1e4, 1e5, 1e6)}, tensor=TensorPlan())
class RotaryPosition(Position):
    """Rotation of pairs of features by angles proportional to the position, RoPE (arXiv:2104.09864).

    x: [B, T, H, K] -> [B, T, H, K].  Pair i rotates by position * base^(-2i / K).  Raises ValueError where K is odd.

    Args:
        base: Base of the geometric series of frequencies.
        interleaved: Whether a pair is features 2i and 2i + 1, as in the paper, instead of i and i + K/2, as in
            transformers.
    """

    def __init__(self, num_heads: int, head_dim: int, *, base: Positive = 10000.0, interleaved: bool = True) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"head_dim {head_dim} is odd: rope rotates pairs of features")
        self.num_pairs, self.base = head_dim // 2, base
        self.pairs, self.axis = ((self.num_pairs, 2), -1) if interleaved else ((2, self.num_pairs), -2)

    def rotate(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        """Return each pair rotated by its angle."""
        x = at_least_float32(x_BTHK)  # bfloat16 cannot tell the angles of late positions apart
        cos, sin = rotary_cos_sin(position_BT, self.num_pairs, self.base, x.dtype).unsqueeze(3)
        first, second = x.unflatten(-1, self.pairs).unbind(self.axis)
        rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=self.axis)
        return rotated.flatten(-2).to(x_BTHK.dtype)
