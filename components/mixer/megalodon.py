from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import (
    Factory,
    Fraction,
    Heads,
    Param,
    Positive,
    Recurrent,
    State,
    StateScope,
    TensorPlan,
    Width,
    choice,
    register,
    slot,
)
from archlab.components._init import Init, linear
from archlab.components.attention._shape import AttentionShape
from archlab.ops.dtypes import at_least_float32


@register(
    "mixer",
    "megalodon",
    search={"num_heads": choice(1, 2, 4)},
    params={
        "value.weight": Param("hidden", tensor="column"),
        "value.bias": Param("vector", tensor="column"),
        "shared.weight": Param("hidden", tensor="column"),
        "shared.bias": Param("vector", tensor="column"),
        "reset.weight": Param("hidden", tensor="column"),
        "reset.bias": Param("vector", tensor="column"),
        "hidden.weight": Param("hidden", tensor="row", branch=True),
        "hidden.bias": Param("vector", branch=True),
        "out.weight": Param("hidden", tensor="row", branch=True),
        "gamma": Param("vector", tensor="column", fan_out=1),
        # Scores divide z z^T by the head's width K; beta is added to z / sqrt(K), and meets a key of K such entries.
        "beta": Param("vector", tensor="column", scale={"head_dim": -0.5}, fan_out=1),
    },
    tensor=TensorPlan(counts=("num_heads",), parts=("attention",)),
)
class MegalodonAttention(Recurrent):
    """Attention with normalized keys from moving averages, and gated values, Megalodon section 3.3 (arXiv:2404.08801).

    x, already normalized: [B, T, D] -> [B, T, D], without the residual.
    Raises ValueError where num_heads does not divide one of the widths.

    Args:
        num_heads: Number of heads.
        shared_dim: Width of queries and keys over all heads.
        value_dim: Width of values over all heads.
        ema: Moving average of the input.
        norm: Norm of the moving average.
        attention: Attention function, to which queries and keys arrive scaled.
        position: Positions that rotate queries and keys, or add a bias to the scores.
        eps: Constant added to the mean square of queries and keys.
        dropout: Probability of zeroing a channel of the moving average, or of the gated output, in training.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 1,
        shared_dim: Width = 256,
        value_dim: Width = 2048,
        ema: Factory = slot("ema", "cema"),
        norm: Factory = slot("norm", "rms"),
        attention: Factory = slot("attention", "softmax"),
        position: Factory = slot("position", "rope"),
        eps: Positive = 1e-5,
        dropout: Fraction = 0.0,
        init: Init = "he",
    ) -> None:
        super().__init__()
        if shared_dim % num_heads or value_dim % num_heads:
            raise ValueError(
                f"shared_dim {shared_dim} and value_dim {value_dim} are not divisible by num_heads {num_heads}"
            )
        self.num_heads, self.head_dim, self.eps = num_heads, shared_dim // num_heads, eps
        self.ema, self.norm = ema(dim), norm(dim)
        self.value = linear(dim, value_dim, bias=True, init=init)
        self.shared = linear(dim, shared_dim, bias=True, init=init)
        self.reset = linear(dim, value_dim, bias=True, init=init)
        self.hidden = linear(dim, dim, bias=True, init=init)
        self.out = linear(value_dim, dim, bias=False, init=init)
        self.gamma = nn.Parameter(torch.empty(2, shared_dim))
        self.beta = nn.Parameter(torch.empty(2, shared_dim))
        # The scale of the scores is 1, since the normalized queries and keys are scaled themselves.
        shape = AttentionShape(num_heads, num_heads, self.head_dim, value_dim // num_heads, scale=1.0)
        self.attention = attention(shape, position(num_heads, self.head_dim).require_place("attention"))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize queries equal to keys."""
        nn.init.zeros_(self.gamma)
        nn.init.zeros_(self.beta)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Attend from moving averages to moving averages, with values of x, and gate the output."""
        scope = StateScope(state)
        averaged = scope("norm", self.norm, scope("ema", self.ema, x_BTD))
        m_BTD = self.dropout(averaged)
        q_BTHK, k_BTHK = self._queries_and_keys(m_BTD)
        v_BTHV = F.silu(self.value(x_BTD)).unflatten(-1, (self.num_heads, -1))
        y_BTHV = scope("attention", self.attention, q_BTHK, k_BTHK, v_BTHV)
        gated = self.dropout(y_BTHV.flatten(-2) * F.silu(self.reset(m_BTD)))
        return self.hidden(m_BTD) + self.out(gated), scope.state

    def _queries_and_keys(self, m_BTD: Tensor) -> tuple[Tensor, ...]:
        """Return kappa * z / rms(z) + mu of both, with one z, kappa = (1 + gamma) / sqrt(K) and mu = beta."""
        z_BTHK = at_least_float32(self.shared(m_BTD)).unflatten(-1, (self.num_heads, self.head_dim))
        z_BTHK = z_BTHK * torch.rsqrt(z_BTHK.square().mean(-1, keepdim=True) + self.eps)
        scale = (1 + at_least_float32(self.gamma)) * self.head_dim**-0.5
        both = z_BTHK.flatten(-2)[..., None, :] * scale + at_least_float32(self.beta)
        return both.to(m_BTD.dtype).unflatten(-1, (self.num_heads, self.head_dim)).unbind(-3)
