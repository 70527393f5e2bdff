from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Fraction, register
from archlab.components.position._base import Position


@register("attention", "bidirectional")
class BidirectionalAttention(nn.Module):
    """Softmax of scaled dot products over all keys, earlier and later (arXiv:1706.03762).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  It has no state: a sample is one call.
    Positions that add to the scores see a distance alone, the same both ways.
    """

    causal = False

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        key_dim: int,
        value_dim: int,
        scale: float,
        position: Position,
        *,
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.group, self.scale, self.position, self.dropout = num_heads // num_kv_heads, scale, position, dropout

    def forward(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor) -> Tensor:
        """Weigh the values of all steps for every step."""
        steps_1T = torch.arange(q_BTHK.shape[1], device=q_BTHK.device)[None]
        q_BHTK = self.position.rotate(q_BTHK, steps_1T).transpose(1, 2)
        k_BHTK, v_BHTV = (self._heads(x) for x in (self.position.rotate(k_BTGK, steps_1T), v_BTGV))
        bias = self.position.bias(steps_1T, steps_1T)
        shown = None if bias is None else (bias.tril() + bias.tril(-1).mT).to(q_BHTK.dtype)
        dropped = self.dropout if self.training else 0.0
        y_BHTV = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTV, shown, dropped, scale=self.scale)
        return y_BHTV.transpose(1, 2)

    def _heads(self, x_BTGK: Tensor) -> Tensor:
        return x_BTGK.repeat_interleave(self.group, dim=2).transpose(1, 2)
