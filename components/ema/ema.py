from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Count, Param, State, TensorPlan, choice, register
from archlab.components._init import truncated_normal_
from archlab.components.ema._diagonal import DiagonalRecurrence
from archlab.ops.diagonal_scan import Decay, diagonal_scan
from archlab.ops.dtypes import at_least_float32


@register(
    "ema",
    "ema",
    search={"num_dims": choice(2, 4, 8, 16)},
    params={"*": Param("vector", tensor="column")},
    tensor=TensorPlan(),
    carry="associative",
)
class DampedEMA(DiagonalRecurrence):
    """Multi-dimensional damped exponential moving average, Mega eq. 5 and 6 (arXiv:2209.10655).

    x: [B, T, D] -> [B, T, D].  State: h [B, D, N, 1].

    Deviations: as in the authors' code, a skip connection `omega * x` is added.

    Args:
        num_dims: Number N of moving averages per channel.
    """

    def __init__(self, dim: int, *, num_dims: Count = 16) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(dim, num_dims))
        self.delta = nn.Parameter(torch.empty(dim, num_dims))
        self.beta = nn.Parameter(torch.empty(dim, num_dims))
        self.eta = nn.Parameter(torch.empty(dim, num_dims))
        self.omega = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters; the expansion beta alternates in sign, as in the authors' code."""
        for parameter in (self.alpha, self.delta):
            nn.init.normal_(parameter, std=0.2)
        nn.init.normal_(self.eta)
        nn.init.normal_(self.beta, std=0.02)
        truncated_normal_(self.omega, std=0.25, cut=1.0)
        with torch.no_grad():
            self.beta[:, 0::2] += 1
            self.beta[:, 1::2] -= 1

    def init_state(self, batch_size: int) -> State:
        """Return h = 0."""
        return {"h": at_least_float32(self.eta).new_zeros(batch_size, *self.eta.shape, 1)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Average the past of every channel by h_t = (1 - p d) h_{t-1} + p beta x_t, y_t = eta h_t / sqrt(N)."""
        decay, weight_DN1 = self._coefficients()
        y_BTD, h = diagonal_scan(x_BTD, decay, weight_DN1, state["h"] if state else None)
        return (y_BTD + at_least_float32(x_BTD) * at_least_float32(self.omega)).to(x_BTD.dtype), {"h": h}

    def _coefficients(self) -> tuple[Decay, Tensor]:
        """Return the decay 1 - p d and the output's weight p beta eta / sqrt(N)."""
        p_DN = torch.sigmoid(at_least_float32(self.alpha))
        # Below 1, since the decay's logarithm is -inf where both sigmoids round to 1.
        shrink = (p_DN * torch.sigmoid(at_least_float32(self.delta))).clamp(max=1 - 1e-7)
        weight_DN = p_DN * at_least_float32(self.beta) * at_least_float32(self.eta) * p_DN.shape[1] ** -0.5
        return Decay(torch.log1p(-shrink), None), weight_DN[..., None]
