from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, choice, register
from archlab.components._init import TokenInit, init_tokens_
from archlab.ops.dtypes import at_least_float32


@register("head", "classifier", search={"pool": choice("first", "mean", "last")})
class ClassifierHead(nn.Module):
    """One score per class for a whole sample, from its first or last position or the mean of all.

    x: [B, T, D] -> [B, C] in at least float32.  A sample is one call: `first` fits a class token, and sees the others
    only where attention looks ahead; `last` fits models that do not.
    """

    per_sample = True
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
        """Draw the matrix and clear the bias."""
        init_tokens_(self.weight, self.init)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Pool the positions, and score what is left."""
        return at_least_float32(F.linear(self._pooled(x_BTD), self.weight, self.bias))

    def _pooled(self, x_BTD: Tensor) -> Tensor:
        if self.pool == "mean":
            return at_least_float32(x_BTD).mean(1).to(x_BTD.dtype)
        return x_BTD[:, 0 if self.pool == "first" else -1]
