from __future__ import annotations

import math

import torch
from torch import Tensor

from archlab import Count, Fraction, Positive, TensorPlan, choice, register

from ._rotary import Rotation


@register("position", "rope_yarn", search={"factor": choice(2.0, 4.0, 8.0)}, tensor=TensorPlan())
class YarnRotaryPosition(Rotation):
    """RoPE whose pairs of few turns have positions divided by a factor, and sharper scores, YaRN (arXiv:2309.00071).

    x: [B, T, H, K] -> [B, T, H, K].  Pair i of the first R = fraction * K features rotates by
    position * (s + (1 - s) / factor) * base^(-2i / R), where s falls linearly in i from 1 to 0 between the pairs that
    make `fast_turns` and `slow_turns` within `trained_context` tokens, and is multiplied by `length`.
    Raises ValueError where R is odd or 0, or fast_turns is not above slow_turns.

    Args:
        base: Base of the geometric series of frequencies.
        factor: How many times as long texts are as those trained on.
        trained_context: Number of tokens that the frequencies were trained on.
        slow_turns: Turns of the pair at which positions are divided by the whole factor.
        fast_turns: Turns of the pair at which positions are kept.
        whole_pairs: Whether the two pairs are rounded outwards to whole ones.
        length: Factor of rotated features, in queries and keys; null for 0.1 ln(factor) + 1, or 1 for a factor up to 1.
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
        trained_context: Count = 2048,
        slow_turns: Positive = 1.0,
        fast_turns: Positive = 32.0,
        whole_pairs: bool = True,
        length: Positive | None = None,
        interleaved: bool = True,
        fraction: Fraction = 1.0,
    ) -> None:
        super().__init__(head_dim, base=base, interleaved=interleaved, fraction=fraction)
        if fast_turns <= slow_turns:
            raise ValueError(f"fast_turns {fast_turns} is not above slow_turns {slow_turns}")
        first, last = (self._find_pair(trained_context, turns) for turns in (fast_turns, slow_turns))
        if whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        self.first, self.last = max(first, 0), min(last, 2 * self.num_pairs - 1)
        self.factor = factor
        self.length = 0.1 * math.log(max(factor, 1.0)) + 1 if length is None else length

    def _find_pair(self, trained_context: int, turns: float) -> float:
        """Return the index, between whole ones, of the pair that makes so many turns."""
        return self.num_pairs * math.log(trained_context / (turns * 2 * math.pi)) / math.log(self.base)

    def scale_frequencies(self, frequency_P: Tensor) -> Tensor:
        """Return the frequencies, those of pairs behind the first divided by up to the factor."""
        index_P = torch.arange(self.num_pairs, dtype=frequency_P.dtype, device=frequency_P.device)
        span = self.last - self.first or 0.001  # as the authors' code has it where both are one pair
        divided_P = ((index_P - self.first) / span).clamp(0, 1)
        return frequency_P * (1 - divided_P + divided_P / self.factor)
