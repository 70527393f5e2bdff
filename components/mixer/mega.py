from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Factory, Fraction, Recurrent, State, StateScope, choice, interval, register, slot
from archlab.components._init import Init, linear


@register(
    "mixer",
    "mega",
    search={
        "num_heads": choice(1, 2, 4),
        "shared_dim": choice(32, 64, 128),
        "value_dim": choice(128, 256, 512),
        "dropout": interval(0.0, 0.3),
    },
)
class Mega(Recurrent):
    """Gated attention whose queries and keys see a moving average, Mega eq. 7 to 15 (arXiv:2209.10655).

    x: [B, T, D] -> [B, T, D].  All heads together have queries shared_dim wide (D / 4 unless said otherwise) and
    values value_dim wide (2 D).  Returns update * (h - x): with x added, the paper's update * h + (1 - update) * x.
    Raises ValueError where num_heads divides one of the widths not.
    Deviations: the x that h replaces is the mixer's own input, so the sum is the paper's where that is not
    normalised (residual post_norm); behind a norm, the block's input plus update * (h - norm(input)).
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 1,
        shared_dim: Count | None = None,
        value_dim: Count | None = None,
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
        widths = (num_heads, num_heads, head_dim, value_dim // num_heads)
        placed = position(num_heads, head_dim).placed("attention")
        self.attention = attention(*widths, head_dim**-0.5, placed)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin with queries and keys near zero."""
        nn.init.normal_(self.gamma, std=0.02)
        nn.init.zeros_(self.beta)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the gated step from x towards what was attended to."""
        stream = StateScope(state)
        averaged = self.dropout(stream("ema", self.ema, x_BTD))
        z_BTZ = F.silu(self.shared(averaged))
        q_BTHK, k_BTHK = (self._heads(z_BTZ * gamma + beta) for gamma, beta in zip(self.gamma, self.beta, strict=True))
        y_BTHV = stream("attention", self.attention, q_BTHK, k_BTHK, self._heads(F.silu(self.value(x_BTD))))
        gated = y_BTHV.flatten(-2) * F.silu(self.reset(averaged))
        h_BTD = self.dropout(F.silu(self.hidden(averaged) + self.out(gated)))
        return torch.sigmoid(self.update(averaged)) * (h_BTD - x_BTD), stream.state

    def _heads(self, x_BTZ: Tensor) -> Tensor:
        return x_BTZ.unflatten(-1, (self.num_heads, -1))
