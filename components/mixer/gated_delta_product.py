from __future__ import annotations

from archlab import Count, Factory, Heads, Positive, Width, choice, register, slot
from archlab.components._init import Init

from ._delta import GATED_PARAMS, PLAN, GatedDeltaRule


@register(
    "mixer",
    "gated_delta_product",
    search={
        "num_heads": choice(1, 2, 4, 8),
        "num_householders": choice(1, 2, 3, 4),
        "negative_eigenvalues": choice(False, True),
    },
    params=GATED_PARAMS,
    tensor=PLAN,
)
class GatedDeltaProduct(GatedDeltaRule):
    """Gated DeltaNet with several corrections for each token, Gated DeltaProduct (arXiv:2502.10297).

    x: [B, T, D] -> [B, T, D].  State: that of the convolutions, and sums [B, H, K, V] in at least float32.
    S is decayed once for each token as in Gated DeltaNet, then corrected num_householders times, by a key, a value and
    a fraction each: S -= beta k^T (k S - v). A token multiplies S by a product of that many matrices I - beta k^T k.
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: as in the authors' code, queries are divided by sqrt(K).

    Args:
        num_heads: Number of heads.
        num_householders: Number of corrections for each token.
        key_dim: Width of queries, and of the keys of one correction, over all heads; null for 3/4 D.
        value_dim: Width of the values of one correction over all heads; null for 3/2 D.
        ema: Moving average or short convolution after each of the three projections.
        negative_eigenvalues: Whether beta ranges to 2 instead of 1, so that a correction may be a reflection.
        eps: Constant added to the mean square in the output norm.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        num_householders: Count = 2,
        key_dim: Width | None = None,
        value_dim: Width | None = None,
        ema: Factory = slot("ema", "short_conv"),
        negative_eigenvalues: bool = True,
        eps: Positive = 1e-5,
        init: Init = "he",
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            key_dim=key_dim or max(1, 3 * dim // 4),
            value_dim=value_dim or max(1, 3 * dim // 2),
            ema=ema,
            negative_eigenvalues=negative_eigenvalues,
            eps=eps,
            init=init,
            num_corrections=num_householders,
        )
