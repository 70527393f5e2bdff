from __future__ import annotations

import math

from torch import Tensor

from archlab import Count, Fraction, Positive, TensorPlan, choice, register

from ._rotary import Rotation


@register("position", "rope_llama3", search={"factor": choice(2.0, 4.0, 8.0)}, tensor=TensorPlan())
class Llama3RotaryPosition(Rotation):
    """RoPE whose low frequencies are divided by a factor, and high ones kept, as in LLaMA 3.1 (arXiv:2407.21783).

    x: [B, T, H, K] -> [B, T, H, K].  Pair i of the first R = fraction * K features rotates by
    position * (s + (1 - s) / factor) * base^(-2i / R), where s rises from 0 to 1 as the turns of the pair within
    `trained_context` tokens rise from `slow_turns` to `fast_turns`.
    Raises ValueError where R is odd or 0, or fast_turns is not above slow_turns.

    Args:
        base: Base of the geometric series of frequencies.
        factor: How many times as long texts are as those trained on.
        trained_context: Number of tokens that the frequencies were trained on.
        slow_turns: Turns up to which a frequency is divided by the factor.
        fast_turns: Turns from which on a frequency is kept.
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
        factor: Positive = 8.0,
        trained_context: Count = 8192,
        slow_turns: Positive = 1.0,
        fast_turns: Positive = 4.0,
        interleaved: bool = True,
        fraction: Fraction = 1.0,
    ) -> None:
        super().__init__(head_dim, base=base, interleaved=interleaved, fraction=fraction)
        if fast_turns <= slow_turns:
            raise ValueError(f"fast_turns {fast_turns} is not above slow_turns {slow_turns}")
        self.factor, self.trained_context = factor, trained_context
        self.slow_turns, self.fast_turns = slow_turns, fast_turns

    def scale_frequencies(self, frequency_P: Tensor) -> Tensor:
        """Return the frequencies, the low ones divided by the factor."""
        turns_P = frequency_P * (self.trained_context / (2 * math.pi))
        kept_P = ((turns_P - self.slow_turns) / (self.fast_turns - self.slow_turns)).clamp(0, 1)
        return frequency_P * (kept_P + (1 - kept_P) / self.factor)
