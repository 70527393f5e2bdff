from __future__ import annotations

from archlab import Count, Factory, Positive, choice, register, slot
from archlab.components._init import Init

from ._delta import DeltaRule


@register(
    "mixer",
    "delta_net",
    search={"num_heads": choice(1, 2, 4, 8), "gate": choice(False, True), "negative_eigenvalues": choice(False, True)},
)
class DeltaNet(DeltaRule):
    """Linear attention that replaces the value of a key and does not add to it, DeltaNet (arXiv:2406.06484).

    x: [B, T, D] -> [B, T, D].  State: the averages', and sums [B, H, K, V] in at least float32.  All heads together
    have keys key_dim wide and values value_dim wide (D each unless said otherwise), each seen through an average.
    With `negative_eigenvalues` a correction is up to twice the error (arXiv:2411.12537); with `gate` the output is
    gated as in GLA. Raises ValueError where num_heads does not divide one of the widths.
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
