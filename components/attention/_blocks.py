"""Time cut into blocks that are joined to the batch.

Letters in suffixes: B batch, T time, G key heads, K width of a key.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def split_blocks(x_BTGK: Tensor, size: int) -> Tensor:
    """Split time into blocks joined to the batch, the last one padded with zeros."""
    x = pad_time(x_BTGK, 0, -x_BTGK.shape[1] % size)
    return x.reshape(-1, size, *x.shape[2:])


def split_overlapping(x_BTGK: Tensor, size: int, before: int, padding: int) -> Tensor:
    """Split time into blocks of `size` steps joined to the batch, each preceded by the `before` steps ahead of it."""
    if x_BTGK.shape[1] == before + size:
        return x_BTGK
    x = pad_time(x_BTGK, 0, padding).unfold(1, before + size, size)
    return x.movedim(-1, 2).flatten(0, 1)


def pad_time(x_BT: Tensor, before: int, after: int) -> Tensor:
    """Return the steps with zeros before and after them."""
    return F.pad(x_BT, (0, 0) * (x_BT.dim() - 2) + (before, after))
