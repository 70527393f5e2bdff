from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Count, Factory, Positive, choice, register, slot
from archlab.components._init import Init, linear
from archlab.components._steps import init_dt_bias_, softplus
from archlab.ops.dtypes import at_least_float32

from ._delta import DeltaRule


@register(
    "mixer", "gated_delta_net", search={"num_heads": choice(1, 2, 4, 8), "negative_eigenvalues": choice(False, True)}
)
class GatedDeltaNet(DeltaRule):
    """The delta rule on a matrix that fades as the tokens say, Gated DeltaNet (arXiv:2412.06464).

    x: [B, T, D] -> [B, T, D].  State: the averages', and sums [B, H, K, V] in at least float32.  All heads together
    have keys key_dim wide (3/4 D unless said otherwise) and values value_dim wide (3/2 D), each seen through an
    average. The decay is Mamba-2's, exp(-rate * softplus(W x + bias)). With `negative_eigenvalues` a correction is up
    to twice the error (arXiv:2411.12537). Raises ValueError where num_heads does not divide one of the widths.
    Deviations: as in the authors' code, queries are divided by sqrt(K).
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        key_dim: Count | None = None,
        value_dim: Count | None = None,
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
        """Draw rates evenly up to 16, and steps evenly in the logarithm between 0.001 and 0.1."""
        self.log_rate.uniform_(0, 16).clamp_(min=1e-3).log_()
        init_dt_bias_(self.step.bias, 1e-3, 0.1)

    def log_decay(self, x_BTD: Tensor) -> Tensor:
        """Return minus the rate times softplus of the step."""
        return -at_least_float32(self.log_rate).exp() * softplus(at_least_float32(self.step(x_BTD)))
