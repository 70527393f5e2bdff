from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from archlab import Count, Fraction, register
from archlab.components.attention._shape import BY_HEADS, AttentionShape
from archlab.components.attention._window import Window, WindowedAttention
from archlab.components.position._base import Position
from archlab.ops.causal_attention import causal_attention


@register("attention", "softmax", tensor=BY_HEADS, carry="associative")
class SoftmaxAttention(WindowedAttention):
    """Softmax of scaled dot products (arXiv:1706.03762) over a causal window, computed by a fused kernel.

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State: that of WindowedAttention.

    Args:
        dropout: Probability of zeroing an attention weight in training.
        window: Keys that a query sees: `full`, every earlier token of a stream of at most `window_size` tokens;
            `sliding`, the last `window_size` tokens including its own; `chunk`, its own block of `window_size` tokens.
        window_size: Length of the window in tokens, also the largest number of keys and values in the state.
    """

    def __init__(
        self,
        shape: AttentionShape,
        position: Position,
        *,
        dropout: Fraction = 0.0,
        window: Window = "full",
        window_size: Count = 2048,
    ) -> None:
        super().__init__(shape, position, window=window, window_size=window_size)
        self.dropout = dropout

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Average the visible values by the softmax of their scores."""
        masked = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_BHQK.dtype)
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, attn_mask=masked, **self._options())

    def attend_causal(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, bias: Tensor | None) -> Tensor:
        """Attend under the causal mask, without materializing it where there is no bias."""
        if bias is not None:
            return super().attend_causal(q_BHQK, k_BHSK, v_BHSV, bias)
        if self.training and self.dropout > 0:
            return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, is_causal=True, **self._options())
        return causal_attention(q_BHQK, k_BHSK, v_BHSV, self.shape.scale)

    def _options(self) -> dict[str, Any]:
        return {"dropout_p": self.dropout if self.training else 0.0, "scale": self.shape.scale}
