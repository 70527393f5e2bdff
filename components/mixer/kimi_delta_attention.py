from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Count, Factory, Heads, Param, Positive, Width, choice, register, slot
from archlab.components._dt import init_dt_bias_, softplus
from archlab.components._init import Init, linear
from archlab.ops.dtypes import at_least_float32

from ._delta import PARAMS, PLAN, DeltaRule
from ._heads import heads


@register(
    "mixer",
    "kimi_delta_attention",
    search={"num_heads": choice(1, 2, 4, 8), "negative_eigenvalues": choice(False, True)},
    params={
        **{name: param for name, param in PARAMS.items() if name != "mixed.gate.weight"},
        "*.0.weight": Param("hidden"),  # the rank grows with the width of a head, unless it is given
        "*.1.weight": Param("hidden", tensor="column"),
        "decay.1.bias": Param("vector", tensor="column"),
        "log_rate": Param("vector", tensor="heads"),
    },
    tensor=PLAN,
)
class KimiDeltaAttention(DeltaRule):
    """The delta rule with a data-dependent decay per key channel, Kimi Delta Attention (arXiv:2510.26692).

    x: [B, T, D] -> [B, T, D].  State: that of the convolutions, and sums [B, H, K, V] in at least float32.
    S_t = (I - beta k^T k) diag(a) S_{t-1} + beta k^T v (eq. 1), with a = exp(-rate * softplus(W x + bias)) and one rate
    a head. The output is gated by a sigmoid; this gate and the decay are low-rank functions of the token.
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: as in the authors' code, queries are divided by sqrt(K).

    Args:
        num_heads: Number of heads.
        key_dim: Width of queries and keys over all heads; null for D.
        value_dim: Width of values over all heads; null for D.
        rank: Rank of the functions that compute the decay and the gate; null for the width of a head's values.
        ema: Moving average or short convolution after each of the three projections.
        negative_eigenvalues: Whether beta ranges to 2 instead of 1, so that a correction may be up to twice the error
            (arXiv:2411.12537).
        eps: Constant added to the mean square in the output norm.
        zero_centered: Whether the scale of the output norm is 1 + weight, instead of the weight.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        key_dim: Width | None = None,
        value_dim: Width | None = None,
        rank: Count | None = None,
        ema: Factory = slot("ema", "short_conv"),
        negative_eigenvalues: bool = False,
        eps: Positive = 1e-5,
        zero_centered: bool = True,
        init: Init = "he",
    ) -> None:
        key_dim, value_dim = key_dim or dim, value_dim or dim
        super().__init__(
            dim,
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            ema=ema,
            gate=False,  # another one
            negative_eigenvalues=negative_eigenvalues,
            eps=eps,
            zero_centered=zero_centered,
            init=init,
        )
        rank = rank or self.head_dims[1]
        self.decay, self.gate = (
            nn.Sequential(linear(dim, rank, bias=False, init=init), linear(rank, width, bias=bias, init=init))
            for width, bias in ((key_dim, True), (value_dim, False))
        )
        self.log_rate = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw rates from U(1, 16), and time steps log-uniformly from 0.001 to 0.1."""
        self.log_rate.uniform_(1, 16).log_()
        _, up = self.decay
        assert isinstance(up, nn.Linear)
        init_dt_bias_(up.bias, 1e-3, 0.1)

    def log_decay(self, x_BTD: Tensor) -> Tensor:
        """Return -rate * dt with dt = softplus(W x + bias), for each channel of the keys."""
        dt = heads(softplus(at_least_float32(self.decay(x_BTD))), self.num_heads)
        return -at_least_float32(self.log_rate).exp()[:, None] * dt

    def output(self, y_BTHV: Tensor, x_BTD: Tensor) -> Tensor:
        """Normalize each head, gate and project."""
        normed: Tensor = self.mixed.norm(y_BTHV).flatten(-2)
        return self.mixed.out(normed * torch.sigmoid(self.gate(x_BTD)))
