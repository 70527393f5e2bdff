from __future__ import annotations

import torch
from torch import Tensor

from archlab import Positive, TensorPlan, register

from ._base import Position


@register("position", "alibi", tensor=TensorPlan(counts=("num_heads",), first="first_head"))
class ALiBi(Position):
    """A penalty on scores in proportion to the distance, with a fixed slope per head (arXiv:2108.12409).

    bias: [B, Q], [B, S] -> [B, H, Q, S] float32.  The slopes are 2^(-max_bias / H), 2^(-2 max_bias / H), ...

    Args:
        max_bias: Exponent of the smallest slope, 2^-max_bias.
    """

    def __init__(self, num_heads: int, head_dim: int, *, max_bias: Positive = 8.0) -> None:
        super().__init__()
        self.num_heads, self.max_bias = num_heads, max_bias
        # Of a rank that has some of the heads, whose slopes depend on how many there are in all.
        self.first_head, self.total_heads = 0, num_heads

    def bias(self, query_BQ: Tensor, key_BS: Tensor) -> Tensor:
        """Return -slope * (query - key)."""
        distance = (query_BQ.unsqueeze(-1) - key_BS.unsqueeze(-2)).float().unsqueeze(1)
        slopes = _slopes(self.total_heads, self.max_bias, distance.device)
        return -distance * slopes[self.first_head : self.first_head + self.num_heads].view(-1, 1, 1)


def _slopes(num_heads: int, max_bias: float, device: torch.device) -> Tensor:
    """Return a slope per head, computed in float64.

    Where the number of heads is not a power of two, the first heads have the slopes of the power below it, and the
    others every second slope of the power above it, as in the authors' code.
    """
    half = 1 << (num_heads - 1).bit_length() >> 1
    head = torch.arange(num_heads, dtype=torch.float64, device=device)
    step = head + 1 if num_heads == max(1, 2 * half) else torch.where(head < half, 2 * head + 2, 2 * (head - half) + 1)
    return torch.exp2(-max_bias * step / max(1, 2 * half)).float()
