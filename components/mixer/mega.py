from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import (
    Factory,
    Fraction,
    Heads,
    Param,
    Recurrent,
    State,
    StateScope,
    TensorPlan,
    Width,
    choice,
    interval,
    register,
    slot,
)
from archlab.components._init import Init, linear
from archlab.components.attention._shape import AttentionShape


@register(
    "mixer",
    "mega",
    search={
        "num_heads": choice(1, 2, 4),
        "shared_dim": choice(32, 64, 128),
        "value_dim": choice(128, 256, 512),
        "dropout": interval(0.0, 0.3),
    },
    params={
        "shared.weight": Param("hidden", tensor="column"),
        "shared.bias": Param("vector", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "value.bias": Param("vector", tensor="column"),
        "reset.weight": Param("hidden", tensor="column"),
        "reset.bias": Param("vector", tensor="column"),
        "update.weight": Param("hidden", tensor="row"),
        "update.bias": Param("vector"),
        "hidden.weight": Param("hidden", tensor="row"),
        "hidden.bias": Param("vector"),
        "out.weight": Param("hidden", tensor="row"),
        # Both queries and keys are proportional to their row, so that scores have the product of two scales.
        "gamma": Param("vector", tensor="column", scale={"attention.score_size": -0.5}, fan_out=1),
        "beta": Param("vector", tensor="column", scale={"attention.score_size": -0.5}, fan_out=1),
    },
    tensor=TensorPlan(counts=("num_heads",), parts=("attention",)),
)
class Mega(Recurrent):
    """Gated attention whose queries and keys see a moving average, Mega eq. 7 to 15 (arXiv:2209.10655).

    x: [B, T, D] -> [B, T, D].  Returns update * (h - x), to which the residual adds x: the paper's
    update * h + (1 - update) * x (eq. 15).
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: the x that h replaces is the mixer's own input, so the sum is the paper's where that is not
    normalized (residual post_norm); behind a norm, the block's input plus update * (h - norm(input)).

    Args:
        num_heads: Number of heads; the paper has one.
        shared_dim: Width of queries and keys over all heads; null for D / 4.
        value_dim: Width of values over all heads; null for 2 D.
        ema: Moving average of the input.
        attention: Attention function.
        position: Positions that rotate queries and keys, or add a bias to the scores.
        dropout: Probability of zeroing a channel of the moving average, or of h, in training.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 1,
        shared_dim: Width | None = None,
        value_dim: Width | None = None,
        ema: Factory = slot("ema", "ema"),
        attention: Factory = slot("attention", "softmax"),
        position: Factory = slot("position", "relative_bias"),
        dropout: Fraction = 0.0,
        init: Init = "he",
    ) -> None:
        super().__init__()
        shared_dim, value_dim = shared_dim or max(1, dim // 4), value_dim or 2 * dim
        for name, width in (("shared_dim", shared_dim), ("value_dim", value_dim)):
            if width % num_heads:
                raise ValueError(f"{name} {width} is not divisible by num_heads {num_heads}")
        self.num_heads, head_dim = num_heads, shared_dim // num_heads
        self.ema, self.dropout = ema(dim), nn.Dropout(dropout)
        self.shared = linear(dim, shared_dim, bias=True, init=init)
        self.value = linear(dim, value_dim, bias=True, init=init)
        self.reset = linear(dim, value_dim, bias=True, init=init)
        self.update = linear(dim, dim, bias=True, init=init)
        self.hidden = linear(dim, dim, bias=True, init=init)
        self.out = linear(value_dim, dim, bias=False, init=init)
        self.gamma = nn.Parameter(torch.empty(2, shared_dim))
        self.beta = nn.Parameter(torch.empty(2, shared_dim))
        shape = AttentionShape(num_heads, num_heads, head_dim, value_dim // num_heads, scale=head_dim**-0.5)
        self.attention = attention(shape, position(num_heads, head_dim).require_place("attention"))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize queries and keys near zero."""
        nn.init.normal_(self.gamma, std=0.02)
        nn.init.zeros_(self.beta)

    @torch.no_grad()
    def shrink_branch(self, factor: float) -> None:
        """Multiply the update gate, far below 1, by a factor at initialization."""
        self.update.bias.add_(math.log(factor))

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the gated difference between the attention output and x."""
        scope = StateScope(state)
        # Values are projected from x itself, everything else from its moving average (eq. 10 to 14).
        averaged = self.dropout(scope("ema", self.ema, x_BTD))
        z_BTZ = F.silu(self.shared(averaged))
        q_BTHK, k_BTHK = (self._heads(z_BTZ * gamma + beta) for gamma, beta in zip(self.gamma, self.beta, strict=True))
        y_BTHV = scope("attention", self.attention, q_BTHK, k_BTHK, self._heads(F.silu(self.value(x_BTD))))
        gated = y_BTHV.flatten(-2) * F.silu(self.reset(averaged))
        h_BTD = self.dropout(F.silu(self.hidden(averaged) + self.out(gated)))
        return torch.sigmoid(self.update(averaged)) * (h_BTD - x_BTD), scope.state

    def _heads(self, x_BTZ: Tensor) -> Tensor:
        return x_BTZ.unflatten(-1, (self.num_heads, -1))
