from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, choice, register
from archlab.components._init import TokenInit, init_tokens_
from archlab.ops.dtypes import at_least_float32


@register(
    "head",
    "classifier",
    search={"pool": choice("first", "mean", "last")},
    params={"weight": Param("output"), "bias": Param("vector")},
)
class ClassifierHead(nn.Module):
    """Logits of a whole sample's classes from its first or last position, or the mean of all.

    x: [B, T, D] -> [B, C] in at least float32.  A sample is one call.

    Args:
        num_outputs: Number of classes.
        pool: Position that is read: `first` for a class token under bidirectional attention, `last` for causal models,
            `mean` for the average of all positions.
        bias: Whether a learned bias is added to the logits.
        init: Distribution of the weight: N(0, 1/D) `truncated` at three deviations, or `normal`, N(0, 0.02²).
    """

    per_sample = True  # one output per sample instead of one per token
    matrix = None  # few logits: their loss needs no chunks
    bias: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        vocab_size: int | None,
        embedding: nn.Module,
        *,
        num_outputs: Count,
        pool: Literal["first", "mean", "last"] = "mean",
        bias: bool = True,
        init: TokenInit = "truncated",
    ) -> None:
        super().__init__()
        self.num_outputs, self.pool, self.init = num_outputs, pool, init
        self.weight = nn.Parameter(torch.empty(num_outputs, dim))
        self.register_parameter("bias", nn.Parameter(torch.empty(num_outputs)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight and zero the bias."""
        init_tokens_(self.weight, self.init)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Pool the positions and project to the classes."""
        return at_least_float32(F.linear(self._pool(x_BTD), self.weight, self.bias))

    def _pool(self, x_BTD: Tensor) -> Tensor:
        if self.pool == "mean":
            return at_least_float32(x_BTD).mean(1).to(x_BTD.dtype)
        return x_BTD[:, 0 if self.pool == "first" else -1]
