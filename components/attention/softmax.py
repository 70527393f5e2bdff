from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from archlab import Count, Fraction, register
from archlab.components.attention._window import Window, WindowedAttention
from archlab.components.position._base import Position
from archlab.ops.causal_attention import causal_attention


@register("attention", "softmax")
class SoftmaxAttention(WindowedAttention):
    """Softmax of scaled dot products (arXiv:1706.03762) over a window, through fused attention."""

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
        window: Window = "full",
        window_size: Count = 2048,
    ) -> None:
        super().__init__(
            num_heads, num_kv_heads, key_dim, value_dim, scale, position, window=window, window_size=window_size
        )
        self.dropout = dropout

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Weigh the visible values."""
        shown = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_BHQK.dtype)
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, attn_mask=shown, **self._options())

    def attend_causal(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, bias: Tensor | None) -> Tensor:
        """Weigh the values up to each query's own."""
        if bias is not None:
            return super().attend_causal(q_BHQK, k_BHSK, v_BHSV, bias)
        if self.training and self.dropout > 0:
            return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, is_causal=True, **self._options())
        return causal_attention(q_BHQK, k_BHSK, v_BHSV, self.scale)

    def _options(self) -> dict[str, Any]:
        return {"dropout_p": self.dropout if self.training else 0.0, "scale": self.scale}
