from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import register


@register("ffn", "none")
class NoFeedForward(nn.Module):
    """No feed-forward layer: the branch adds nothing.

    x: [..., D] -> zeros [..., D].
    """

    adds_nothing = True  # refused by a residual whose mixer reaches the output through the ffn alone

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)
