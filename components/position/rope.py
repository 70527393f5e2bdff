from __future__ import annotations

from archlab import Fraction, Positive, TensorPlan, choice, register

from ._rotary import Rotation


@register("position", "rope", search={"base": choice(1e4, 1e5, 1e6)}, tensor=TensorPlan())
class RotaryPosition(Rotation):
    """Rotation of pairs of features by angles proportional to the position, RoPE (arXiv:2104.09864).

    x: [B, T, H, K] -> [B, T, H, K].  Pair i of the first R = fraction * K features rotates by
    position * base^(-2i / R). Raises ValueError where R is odd or 0.

    Args:
        base: Base of the geometric series of frequencies.
        interleaved: Whether a pair is features 2i and 2i + 1, as in the paper, instead of i and i + R/2, as in
            transformers.
        fraction: Share of the features that rotate, the first ones; the others stay as they are (arXiv:2204.06745).
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        base: Positive = 10000.0,
        interleaved: bool = True,
        fraction: Fraction = 1.0,
    ) -> None:
        super().__init__(head_dim, base=base, interleaved=interleaved, fraction=fraction)
