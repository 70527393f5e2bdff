from __future__ import annotations

import math

import torch
from torch import Tensor

from archlab import register

from ._pointwise import PointwiseAttention

_MEAN, _DEVIATION = math.sqrt(1 / 2), math.sqrt(1 / (4 * math.pi))


@register("attention", "laplace")
class LaplaceAttention(PointwiseAttention):
    """Attention weighed by the normal distribution function of the scores, Mega eq. 17 (arXiv:2209.10655).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].
    """

    def weigh(self, scores: Tensor) -> Tensor:
        """Return the distribution function of N(sqrt(1/2), 1 / (4 pi)), which comes close to relu squared."""
        return 0.5 * (1 + torch.erf((scores - _MEAN) / (_DEVIATION * math.sqrt(2))))
