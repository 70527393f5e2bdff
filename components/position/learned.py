from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, register

from ._base import Position


@register("position", "learned", params={"weight": Param("input")})
class LearnedPosition(Position):
    """A learned vector per position added to the embedding (arXiv:1705.03122).

    x: [B, T, D] -> [B, T, D].
    Deviations: positions from max_length - 1 on share one vector, so that the context is unlimited.

    Args:
        max_length: Number of vectors.
    """

    place = "embedding"

    def __init__(self, num_heads: int, head_dim: int, *, max_length: Count = 2048) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_length, num_heads * head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 0.02²)."""
        nn.init.normal_(self.weight, std=0.02)

    def embed(self, x_BTD: Tensor, position_BT: Tensor) -> Tensor:
        """Return x plus the vectors of its positions."""
        return x_BTD + F.embedding(position_BT.clamp_max(len(self.weight) - 1), self.weight).to(x_BTD.dtype)
