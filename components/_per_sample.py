"""Gathers and selections that differ between the samples of a batch, whose streams are at different positions.

B batch, N windows, S steps, T steps of all windows of a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archlab.components._ring import pad_ring


def gather_windows(x_BS: Tensor, start_BN: Tensor, size: int) -> Tensor:
    """Return windows [B N, size, ...] of [B, S, ...] from each start on; past either end, that step is repeated."""
    index_BT = (start_BN[..., None] + torch.arange(size, device=x_BS.device)).clamp(0, x_BS.shape[1] - 1).flatten(1)
    index = index_BT.reshape(*index_BT.shape, *[1] * (x_BS.dim() - 2))
    return x_BS.gather(1, index.expand(-1, -1, *x_BS.shape[2:])).reshape(-1, size, *x_BS.shape[2:])


def select_samples(mask_B: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return `one` [B, ...] for the samples where the mask is True, `other` for the rest, before it grew to `one`."""
    if other.shape != one.shape:
        other = pad_ring(other, one.shape[1])
    return torch.where(mask_B.reshape(-1, *[1] * (one.dim() - 1)), one, other)
