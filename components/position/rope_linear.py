from __future__ import annotations

from torch import Tensor

from archlab import Fraction, Positive, TensorPlan, choice, register

from ._rotary import Rotation


@register("position", "rope_linear", search={"factor": choice(2.0, 4.0, 8.0)}, tensor=TensorPlan())
class LinearRotaryPosition(Rotation):
    """RoPE with positions divided by a factor, position interpolation (arXiv:2306.15595).

    x: [B, T, H, K] -> [B, T, H, K].  Pair i of the first R = fraction * K features rotates by
    position / factor * base^(-2i / R). Raises ValueError where R is odd or 0.

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
        self.factor = factor

    def scale_frequencies(self, frequency_P: Tensor) -> Tensor:
        """Return all frequencies divided by the factor."""
        return frequency_P / self.factor
