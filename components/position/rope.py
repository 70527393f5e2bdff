from __future__ import annotations

import torch
from torch import Tensor

from archlab import Positive, choice, register
from archlab.ops.dtypes import at_least_float32
from archlab.ops.rotary import rotary_cos_sin

from ._base import Position


@register("position", "rope", search={"base": choice(1e4, 1e5, 1e6)})
class RotaryPosition(Position):
    """Pairs of features turned by an angle that grows with the position (arXiv:2104.09864).

    x: [B, T, H, K] -> [B, T, H, K].  A pair is features 2i and 2i + 1 if `interleaved`, else i and i + K/2.
    Raises ValueError where K is odd.
    """

    def __init__(self, num_heads: int, head_dim: int, *, base: Positive = 10000.0, interleaved: bool = True) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"head_dim {head_dim} is odd: rope turns pairs of features")
        self.num_pairs, self.base = head_dim // 2, base
        self.pairs, self.axis = ((self.num_pairs, 2), -1) if interleaved else ((2, self.num_pairs), -2)

    def rotate(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        """Return each pair turned by its angle."""
        x = at_least_float32(x_BTHK)
        cos, sin = rotary_cos_sin(position_BT, self.num_pairs, self.base, x.dtype).unsqueeze(3)
        first, second = x.unflatten(-1, self.pairs).unbind(self.axis)
        turned = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=self.axis)
        return turned.flatten(-2).to(x_BTHK.dtype)
