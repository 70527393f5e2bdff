from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from archlab import register
from archlab.components.attention._shape import BY_HEADS

from ._pointwise import PointwiseAttention


@register("attention", "relu2", tensor=BY_HEADS, carry="associative")
class SquaredReluAttention(PointwiseAttention):
    """Attention with relu squared of the scores as weights (arXiv:2109.08668), as in Mega (arXiv:2209.10655).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State and knobs: those of WindowedAttention.
    """

    def weigh(self, scores: Tensor) -> Tensor:
        """Return relu(scores)^2."""
        return F.relu(scores).square()
