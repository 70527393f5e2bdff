from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archlab import Fraction, Param, choice, register
from archlab.components._init import Init, linear

from ._base import Branch, Residual


@register(
    "residual",
    "gated",
    search={"share": choice(0.1, 0.25, 0.5)},
    params={"*_gate.weight": Param("hidden", tensor="row"), "*_gate.bias": Param("vector")},
)
class GatedResidual(Residual):
    """Highway connections, which replace a gated share of the input, y = x + g * (branch(x) - x) (arXiv:1505.00387).

    x: [B, T, D] -> [B, T, D].  g = sigmoid(W x + b + c) with one W and b per branch and c = logit(share).
    Raises ValueError where share is 0 or 1, where a gate has no gradient.
    Deviations: the input of a branch is normalized, that of its gate is not.

    Args:
        share: Initial value of the gates, between 0 and 1.
        init: Distribution of the gates' weights.
    """

    def __init__(self, dim: int, layer_index: int, *, share: Fraction = 0.1, init: Init = "normal") -> None:
        super().__init__(dim, layer_index)
        if share in (0, 1):
            raise ValueError(f"share {share} is not between 0 and 1, where a gate has a gradient")
        self.offset = math.log(share / (1 - share))
        self.mixer_gate = linear(dim, dim, bias=True, init=init)
        self.ffn_gate = linear(dim, dim, bias=True, init=init)

    def added(self, mixer: nn.Module, ffn: nn.Module) -> tuple[nn.Module, ...]:
        """Return itself: the gates scale both branches."""
        return (self,)

    @torch.no_grad()
    def shrink_branch(self, factor: float) -> None:
        """Multiply the replaced shares, far below 1, by a factor at initialization."""
        for gate in (self.mixer_gate, self.ffn_gate):
            gate.bias.add_(math.log(factor))

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Interpolate between the input and each branch by its gate."""
        y = x + (self.mixer_gate(x) + self.offset).sigmoid() * (mixer(x) - x)
        return y + (self.ffn_gate(y) + self.offset).sigmoid() * (ffn(y) - y)
