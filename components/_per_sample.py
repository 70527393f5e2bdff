"""Steps and choices that differ between the samples of a batch, whose streams stand at different places.

B batch, N windows, S steps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def windows(x_BS: Tensor, begin_BN: Tensor, size: int) -> Tensor:
    """Return windows [B N, size, ...] of [B, S, ...] from each sample's own begins on; past the end, the last again."""
    index_BT = (begin_BN[..., None] + torch.arange(size, device=x_BS.device)).clamp(max=x_BS.shape[1] - 1).flatten(1)
    index = index_BT.reshape(*index_BT.shape, *[1] * (x_BS.dim() - 2))
    return x_BS.gather(1, index.expand(-1, -1, *x_BS.shape[2:])).reshape(-1, size, *x_BS.shape[2:])


def where(chosen_B: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return one [B, ...] for the samples that are chosen, the other for the rest."""
    return torch.where(chosen_B.reshape(-1, *[1] * (one.dim() - 1)), one, other)
