from __future__ import annotations

import math

from torch import Tensor

from archlab import Fraction, choice, register
from archlab.components._init import Init, linear

from ._base import Branch, Residual


@register("residual", "gated", search={"share": choice(0.1, 0.25, 0.5)})
class GatedResidual(Residual):
    """Each branch takes over a gated share of its input, y = x + g * (branch(x) - x) (arXiv:1505.00387).

    x: [B, T, D] -> [B, T, D].  g = sigmoid(W x + b + c), W and b one pair per branch; c makes g begin at about `share`.
    Raises ValueError where share is 0 or 1, from which no gate learns.
    Deviations: the branch sees its input normalised, the gate sees it as it is.
    """

    def __init__(self, dim: int, layer_index: int, *, share: Fraction = 0.1, init: Init = "normal") -> None:
        super().__init__(dim, layer_index)
        if share in (0, 1):
            raise ValueError(f"share {share} leaves no gate: it must lie between 0 and 1")
        self.start = math.log(share / (1 - share))
        self.mixer_gate = linear(dim, dim, bias=True, init=init)
        self.ffn_gate = linear(dim, dim, bias=True, init=init)

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Move towards each branch as far as its gate is open."""
        y = x + (self.mixer_gate(x) + self.start).sigmoid() * (mixer(x) - x)
        return y + (self.ffn_gate(y) + self.start).sigmoid() * (ffn(y) - y)
