from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Factory, Fraction, Param, Recurrent, State, StateScope, interval, register, slot
from archlab.components._init import Init, linear


@register(
    "mixer",
    "ema",
    search={"dropout": interval(0.0, 0.3)},
    params={"out.weight": Param("hidden", tensor="row"), "out.bias": Param("vector")},
)
class EMAMixer(Recurrent):
    """A linear recurrence per channel, then a gated linear unit over the channels, S4 section 3.4 (arXiv:2111.00396).

    x: [B, T, D] -> [B, T, D], a * sigmoid(b) with (a, b) = W gelu(ema(x)) + bias.

    Args:
        ema: Linear recurrence or convolution of each channel.
        dropout: Probability of zeroing an activation in training.
        init: Distribution of the output projection's weights.
    """

    def __init__(
        self, dim: int, *, ema: Factory = slot("ema", "s4d"), dropout: Fraction = 0.0, init: Init = "he"
    ) -> None:
        super().__init__()
        self.ema, self.dropout = ema(dim), nn.Dropout(dropout)
        self.out = linear(dim, 2 * dim, bias=True, init=init)

    @torch.no_grad()
    def shrink_branch(self, factor: float) -> None:
        """Multiply the gate, far below 1, by a factor at initialization."""
        self.out.bias[len(self.out.bias) // 2 :] += math.log(factor)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Filter, activate, project and gate."""
        scope = StateScope(state)
        h_BTD = self.dropout(F.gelu(scope("ema", self.ema, x_BTD)))
        return F.glu(self.out(h_BTD), -1), scope.state
