"""Rotation of pairs of features by angles proportional to the position, at frequencies that subclasses scale."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab.ops.dtypes import at_least_float32
from archlab.ops.rotary import rotary_cos_sin, rotary_frequencies

from ._base import Position


class Rotation(Position):
    """Rotation of pairs of the first R = fraction * K features by position * frequency.

    x: [B, T, H, K] -> [B, T, H, K].  Raises ValueError where R is odd or 0.
    """

    def __init__(self, head_dim: int, *, base: float, interleaved: bool, fraction: float) -> None:
        super().__init__()
        width = int(head_dim * fraction)
        if width % 2 or width == 0:
            part = f"head_dim {head_dim}" if fraction == 1 else f"{fraction} of head_dim {head_dim}, {width} features,"
            raise ValueError(f"{part} is {'odd' if width else '0'}: rope rotates pairs of features")
        self.num_pairs, self.base = width // 2, base
        self.pairs, self.axis = ((self.num_pairs, 2), -1) if interleaved else ((2, self.num_pairs), -2)
        self.length = 1.0  # factor of rotated features

    def scale_frequencies(self, frequency_P: Tensor) -> Tensor:
        """Return the frequencies of the pairs, given base^(-2i / R), in float64."""
        return frequency_P

    def rotate(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        """Return each pair rotated by its angle."""
        # bfloat16 cannot distinguish the angles of late positions.
        x, rest = at_least_float32(x_BTHK[..., : 2 * self.num_pairs]), x_BTHK[..., 2 * self.num_pairs :]
        frequency_P = self.scale_frequencies(rotary_frequencies(self.num_pairs, self.base, position_BT.device))
        table = rotary_cos_sin(position_BT, frequency_P, x.dtype).unsqueeze(3)
        cos, sin = table if self.length == 1 else table * self.length
        first, second = x.unflatten(-1, self.pairs).unbind(self.axis)
        rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=self.axis)
        turned = rotated.flatten(-2).to(x_BTHK.dtype)
        return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned
