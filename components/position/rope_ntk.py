from __future__ import annotations

from archlab import Fraction, Positive, TensorPlan, choice, register

from ._rotary import Rotation


@register("position", "rope_ntk", search={"factor": choice(2.0, 4.0, 8.0)}, tensor=TensorPlan())
class NTKRotaryPosition(Rotation):
    """RoPE with a base that divides the lowest frequency by a factor and keeps the highest (arXiv:2309.00071).

    x: [B, T, H, K] -> [B, T, H, K].  Pair i of the first R = fraction * K features rotates by
    position * b^(-2i / R) with b = base * factor^(R / (R - 2)), NTK-aware interpolation.
    Raises ValueError where R is odd, 0 or 2.
    Deviations: the factor is that of the model, and not of the length of the text, so that a stream has one function.

    Args:
        base: Base of the geometric series of frequencies.
        factor: How many times as long texts are as those trained on.
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
        factor: Positive = 4.0,
        interleaved: bool = True,
        fraction: Fraction = 1.0,
    ) -> None:
        super().__init__(head_dim, base=base, interleaved=interleaved, fraction=fraction)
        width = 2 * self.num_pairs
        if width == 2:
            raise ValueError(f"rope_ntk needs two pairs of features or more, head_dim {head_dim} gives one")
        self.base = base * factor ** (width / (width - 2))
