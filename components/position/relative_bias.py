from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, TensorPlan, choice, register

from ._base import Position


@register(
    "position",
    "relative_bias",
    search={"max_distance": choice(128, 512, 2048)},
    params={"weight": Param("vector", tensor="heads")},
    tensor=TensorPlan(),
)
class RelativeBias(Position):
    """A learned bias of the scores per head and distance, as in Mega (arXiv:2209.10655).

    bias: [B, Q], [B, S] -> [B, H, Q, S].

    Args:
        max_distance: Number of biases per head; distances from max_distance - 1 on share one.
    """

    def __init__(self, num_heads: int, head_dim: int, *, max_distance: Count = 2048) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, max_distance))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw from N(0, 0.02²)."""
        nn.init.normal_(self.weight, std=0.02)

    def bias(self, query_BQ: Tensor, key_BS: Tensor) -> Tensor:
        """Return each head's bias for query - key, clamped to 0 for later keys, which a causal mask hides."""
        distance = query_BQ.unsqueeze(-1) - key_BS.unsqueeze(-2)
        return F.embedding(distance.clamp(0, self.weight.shape[1] - 1), self.weight.T).permute(0, 3, 1, 2)
