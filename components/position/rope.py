from __future__ import annotations

import torch
from torch import Tensor

from archlab import Fraction, Positive, TensorPlan, choice, register
from archlab.ops.dtypes import at_least_float32
from archlab.ops.rotary import rotary_cos_sin

from ._base import Position


@register("position", "rope", search={"base": choice(1e4, 1e5, 1e6)}, tensor=TensorPlan())
class RotaryPosition(Position):
    """Rotation of pairs of features by angles proportional to the position, RoPE (arXiv:2104.09864).

    x: [B, T, H, K] -> [B, T, H, K].  Pair i of the first R = fraction * K features rotates by
    position * base^(-2i / R).
    Raises ValueError where R is odd or 0.

    Args:
        base: Base of the geometric series of frequencies.
        interleaved: Whether a pair is features 2i and 2i + 1, as in the paper, instead of i and i + R/2, as in
            transformers.
        fraction: Share of the features that rotate, the first ones; the others stay as they are (arXiv:2204.06745).
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        base: Positive = 10000.0,
        interleaved: bool = True,
        fraction: Fraction = 1.0,
    ) -> None:
        super().__init__()
        width = int(head_dim * fraction)
        if width % 2 or width == 0:
            part = f"head_dim {head_dim}" if fraction == 1 else f"{fraction} of head_dim {head_dim}, {width} features,"
            raise ValueError(f"{part} is {'odd' if width else '0'}: rope rotates pairs of features")
        self.num_pairs, self.base = width // 2, base
        self.pairs, self.axis = ((self.num_pairs, 2), -1) if interleaved else ((2, self.num_pairs), -2)

    def rotate(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        """Return each pair rotated by its angle."""
        # bfloat16 cannot tell the angles of late positions apart.
        x, rest = at_least_float32(x_BTHK[..., : 2 * self.num_pairs]), x_BTHK[..., 2 * self.num_pairs :]
        cos, sin = rotary_cos_sin(position_BT, self.num_pairs, self.base, x.dtype).unsqueeze(3)
        first, second = x.unflatten(-1, self.pairs).unbind(self.axis)
        rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=self.axis)
        turned = rotated.flatten(-2).to(x_BTHK.dtype)
        return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned
