from __future__ import annotations

from archlab import Factory, Heads, Positive, Width, choice, register, slot
from archlab.components._init import Init

from ._delta import PARAMS, PLAN, DeltaRule


@register(
    "mixer",
    "delta_net",
    search={"num_heads": choice(1, 2, 4, 8), "gate": choice(False, True), "negative_eigenvalues": choice(False, True)},
    params=PARAMS,
    tensor=PLAN,
)
class DeltaNet(DeltaRule):
    """Linear attention that replaces the value of a key instead of adding to it, DeltaNet (arXiv:2406.06484).

    x: [B, T, D] -> [B, T, D].  State: that of the convolutions, and sums [B, H, K, V] in at least float32.
    S_t = S_{t-1} - beta k^T (k S_{t-1} - v) with keys of length 1.
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: as in the authors' code, queries are divided by sqrt(K).

    Args:
        num_heads: Number of heads.
        key_dim: Width of queries and keys over all heads; null for D.
        value_dim: Width of values over all heads; null for D.
        ema: Moving average or short convolution after each of the three projections.
        gate: Whether the output is gated, as in GLA.
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
        gate: bool = False,
        negative_eigenvalues: bool = False,
        eps: Positive = 1e-5,
        init: Init = "he",
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            key_dim=key_dim or dim,
            value_dim=value_dim or dim,
            ema=ema,
            gate=gate,
            negative_eigenvalues=negative_eigenvalues,
            eps=eps,
            init=init,
        )
