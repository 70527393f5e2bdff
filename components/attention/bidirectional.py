from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Fraction, register
from archlab.components.attention._shape import BY_HEADS, AttentionShape
from archlab.components.position._base import Position


@register("attention", "bidirectional", tensor=BY_HEADS)
class BidirectionalAttention(nn.Module):
    """Softmax of scaled dot products over all keys, earlier and later (arXiv:1706.03762).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  There is no state: a sample is one call.
    Position biases depend on the distance alone, the same in both directions.

    Args:
        dropout: Probability of zeroing an attention weight in training.
    """

    causal = False  # later tokens change earlier outputs: no streaming, no next-token loss

    def __init__(self, shape: AttentionShape, position: Position, *, dropout: Fraction = 0.0) -> None:
        super().__init__()
        self.shape, self.position, self.dropout = shape, position, dropout

    @property
    def score_size(self) -> float:
        """How scores grow with the width of a head."""
        return self.shape.score_size

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor) -> Tensor:
        """Attend from every token to every token."""
        steps_1T = torch.arange(q_BTHK.shape[1], device=q_BTHK.device)[None]
        q_BHTK = self.position.rotate(q_BTHK, steps_1T).transpose(1, 2)
        k_BHTK, v_BHTV = (self._repeat_kv(x) for x in (self.position.rotate(k_BTGK, steps_1T), v_BTGV))
        bias = self.position.bias(steps_1T, steps_1T)
        # Biases are defined for earlier keys: the upper triangle is the mirror image of the lower one.
        symmetric = None if bias is None else (bias.tril() + bias.tril(-1).mT).to(q_BHTK.dtype)
        dropout = self.dropout if self.training else 0.0
        y_BHTV = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTV, symmetric, dropout, scale=self.shape.scale)
        return y_BHTV.transpose(1, 2)

    def _repeat_kv(self, x_BTGK: Tensor) -> Tensor:
        """Return [B, H, T, K], each key head repeated for the query heads that share it."""
        return x_BTGK.repeat_interleave(self.shape.group_size, dim=2).transpose(1, 2)
