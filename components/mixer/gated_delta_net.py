from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Factory, Heads, Param, Positive, Width, choice, register, slot
from archlab.components._dt import init_dt_bias_, softplus
from archlab.components._init import Init, linear
from archlab.ops.dtypes import at_least_float32

from ._delta import PARAMS, PLAN, DeltaRule


@register(
    "mixer",
    "gated_delta_net",
    search={"num_heads": choice(1, 2, 4, 8), "negative_eigenvalues": choice(False, True)},
    params={
        **PARAMS,
        "step.weight": Param("hidden", tensor="column"),
        "step.bias": Param("vector", tensor="heads"),
        "log_rate": Param("vector", tensor="heads"),
    },
    tensor=PLAN,
)
class GatedDeltaNet(DeltaRule):
    """The delta rule on a matrix with a data-dependent decay, Gated DeltaNet (arXiv:2412.06464).

    x: [B, T, D] -> [B, T, D].  State: that of the convolutions, and sums [B, H, K, V] in at least float32.
    S_t = a S_{t-1} - beta k^T (k a S_{t-1} - v) (eq. 10), with Mamba-2's decay a = exp(-rate * softplus(W x + bias)).
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: as in the authors' code, queries are divided by sqrt(K).

    Args:
        num_heads: Number of heads.
        key_dim: Width of queries and keys over all heads; null for 3/4 D.
        value_dim: Width of values over all heads; null for 3/2 D.
        ema: Moving average or short convolution after each of the three projections.
        negative_eigenvalues: Whether beta ranges to 2 instead of 1, so that a correction may be up to twice the error
            (arXiv:2411.12537).
        eps: Constant added to the mean square in the output norm.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        key_dim: Width | None = None,
        value_dim: Width | None = None,
        ema: Factory = slot("ema", "short_conv"),
        negative_eigenvalues: bool = False,
        eps: Positive = 1e-5,
        init: Init = "he",
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            key_dim=key_dim or max(1, 3 * dim // 4),
            value_dim=value_dim or max(1, 3 * dim // 2),
            ema=ema,
            gate=True,
            negative_eigenvalues=negative_eigenvalues,
            eps=eps,
            init=init,
        )
        self.step = linear(dim, num_heads, bias=True, init=init)
        self.log_rate = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw rates from U(0, 16), at least 0.001, and time steps log-uniformly from 0.001 to 0.1, as in Mamba-2."""
        self.log_rate.uniform_(0, 16).clamp_(min=1e-3).log_()
        init_dt_bias_(self.step.bias, 1e-3, 0.1)

    def log_decay(self, x_BTD: Tensor) -> Tensor:
        """Return -rate * dt with dt = softplus(W x + bias)."""
        return -at_least_float32(self.log_rate).exp() * softplus(at_least_float32(self.step(x_BTD)))
