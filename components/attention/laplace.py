from __future__ import annotations

import math

import torch
from torch import Tensor

from archlab import register
from archlab.components.attention._shape import BY_HEADS

from ._pointwise import PointwiseAttention

# With this mean and deviation the function has the value 1/2 and the slope sqrt(2) of relu squared at x = sqrt(1/2).
_MEAN, _DEVIATION = math.sqrt(1 / 2), math.sqrt(1 / (4 * math.pi))


@register("attention", "laplace", tensor=BY_HEADS, carry="associative")
class LaplaceAttention(PointwiseAttention):
    """Attention with the normal distribution function of the scores as weights, Mega eq. 17 (arXiv:2209.10655).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State and knobs: those of WindowedAttention.
    """

    def weigh(self, scores: Tensor) -> Tensor:
        """Return the distribution function of N(sqrt(1/2), 1 / (4 pi)), a bounded approximation of relu squared."""
        return 0.5 * (1 + torch.erf((scores - _MEAN) / (_DEVIATION * math.sqrt(2))))
