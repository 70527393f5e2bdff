from __future__ import annotations

from archlab import Count, Factory, Heads, Positive, Width, choice, register, slot
from archlab.components._init import Init

from ._delta import GATED_PARAMS, PLAN, GatedDeltaRule


@register(
    "mixer",
    "gated_delta_net",
    search={"num_heads": choice(1, 2, 4, 8), "negative_eigenvalues": choice(False, True)},
    params=GATED_PARAMS,
    tensor=PLAN,
)
class GatedDeltaNet(GatedDeltaRule):
    """The delta rule on a matrix with a data-dependent decay, Gated DeltaNet (arXiv:2412.06464).

    x: [B, T, D] -> [B, T, D].  State: that of the convolutions, and sums [B, H, K, V] in at least float32.
    S_t = a S_{t-1} - beta k^T (k a S_{t-1} - v) (eq. 10), with Mamba-2's decay a = exp(-rate * softplus(W x + bias)).
    Raises ValueError where the heads do not divide one of the widths.
    Deviations: as in the authors' code, queries are divided by sqrt(K).

    Args:
        num_heads: Number of heads of queries and keys.
        values_per_key: Number of heads of values for each of them, side by side, as in Qwen3-Next; each has a matrix, a
            decay and a fraction of its own.
        key_dim: Width of queries and keys over all heads; null for 3/4 D.
        value_dim: Width of values over all heads; null for 3/2 D.
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
        values_per_key: Count = 1,
        key_dim: Width | None = None,
        value_dim: Width | None = None,
        ema: Factory = slot("ema", "short_conv"),
        negative_eigenvalues: bool = False,
        eps: Positive = 1e-5,
        zero_centered: bool = True,
        init: Init = "he",
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            values_per_key=values_per_key,
            key_dim=key_dim or max(1, 3 * dim // 4),
            value_dim=value_dim or max(1, 3 * dim // 2),
            ema=ema,
            negative_eigenvalues=negative_eigenvalues,
            eps=eps,
            zero_centered=zero_centered,
            init=init,
        )
