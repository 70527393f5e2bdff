from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archlab import Count, Param, State, TensorPlan, choice, register
from archlab.components._init import truncated_normal_
from archlab.components.ema._diagonal import DiagonalRecurrence
from archlab.ops.diagonal_scan import Decay, diagonal_scan
from archlab.ops.dtypes import at_least_float32


@register(
    "ema",
    "cema",
    search={"num_dims": choice(4, 8, 16, 32)},
    params={"*": Param("vector", tensor="column")},
    tensor=TensorPlan(),
    carry="associative",
)
class ComplexEMA(DiagonalRecurrence):
    """Complex exponential moving average, Megalodon eq. 2 (arXiv:2404.08801).

    x: [B, T, D] -> [B, T, D].  State: h [B, D, N, 2], real and imaginary.

    Deviations: as in the authors' code, the input is not rotated and a skip connection `omega * x` is added; the state
    is not multiplied by p, which is a factor of the output's weight instead.

    Args:
        num_dims: Number N of moving averages per channel.
    """

    def __init__(self, dim: int, *, num_dims: Count = 16) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(dim, num_dims, 1))
        self.delta = nn.Parameter(torch.empty(dim, num_dims, 1))
        self.theta = nn.Parameter(torch.empty(dim, 1, 1))
        self.gamma = nn.Parameter(torch.empty(dim, num_dims, 2))
        self.omega = nn.Parameter(torch.empty(dim, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters; base angles are spread over the channels in a random order."""
        dim = self.theta.shape[0]
        nn.init.normal_(self.alpha, std=0.2)
        nn.init.normal_(self.delta, std=0.2)
        nn.init.normal_(self.gamma)
        truncated_normal_(self.omega, std=0.25, cut=1.0)
        order = torch.randperm(dim, device=self.theta.device) + 1
        frequency = torch.exp(order.to(self.theta.dtype) * (-math.log(dim) / dim))
        with torch.no_grad():
            self.gamma[..., 1] = 0
            self.theta.copy_(torch.logit(frequency, eps=1e-6)[:, None, None])

    def init_state(self, batch_size: int) -> State:
        """Return h = 0."""
        return {"h": at_least_float32(self.gamma).new_zeros(batch_size, *self.gamma.shape)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Average the past of every channel."""
        decay, weight_DN2 = self._coefficients()
        y_BTD, h = diagonal_scan(x_BTD, decay, weight_DN2, state["h"] if state else None)
        return (y_BTD + at_least_float32(x_BTD) * at_least_float32(self.omega[:, 0])).to(x_BTD.dtype), {"h": h}

    def _coefficients(self) -> tuple[Decay, Tensor]:
        """Return the decay (1 - p d) exp(i angle) and the output's weight p gamma / sqrt(N)."""
        alpha, delta = at_least_float32(self.alpha), at_least_float32(self.delta)
        p_DN1 = torch.sigmoid(alpha)
        num_dims = p_DN1.shape[1]
        order_N = torch.arange(1, num_dims + 1, device=alpha.device, dtype=alpha.dtype)
        angle_DN = torch.sigmoid(at_least_float32(self.theta))[..., 0] * order_N * (2 * math.pi / num_dims)
        # Below 1, since the decay's logarithm is -inf where both sigmoids round to 1.
        shrink = (p_DN1 * torch.sigmoid(delta))[..., 0].clamp(max=1 - 1e-7)
        return Decay(torch.log1p(-shrink), angle_DN), p_DN1 * at_least_float32(self.gamma) * num_dims**-0.5
