from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Fraction, Param, Positive, choice, register
from archlab.components.attention._capped import CappedScores
from archlab.components.attention._shape import BY_HEADS, AttentionShape
from archlab.components.attention._sink import add_sink
from archlab.components.attention._window import WindowedAttention
from archlab.components.attention._window_state import Window
from archlab.components.position._base import Position
from archlab.ops.causal_attention import causal_attention


@register(
    "attention",
    "softmax",
    search={"soft_cap": choice(None, 20.0, 50.0), "sinks": choice(False, True)},
    params={"sink": Param("vector", tensor="heads")},
    tensor=BY_HEADS,
    carry="associative",
)
class SoftmaxAttention(WindowedAttention):
    """Softmax of scaled dot products (arXiv:1706.03762) over a causal window, by a fused kernel unless they are capped.

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State: that of WindowedAttention.

    Args:
        dropout: Probability of zeroing an attention weight in training.
        soft_cap: Bound c of the scores, each of which becomes c * tanh(score / c) (arXiv:2408.00118); null for none.
            The weights of all pairs of a query and a key then take memory.
        sinks: Whether a learned logit of each head takes part in the softmax without a value (arXiv:2508.10925),
            initially 0.
        window: Keys that a query sees: `full`, every earlier token of a stream of at most `window_size` tokens;
            `sliding`, the last `window_size` tokens including its own; `chunk`, its own block of `window_size` tokens.
        window_size: Length of the window in tokens, also the largest number of keys and values in the state.
    """

    sink: nn.Parameter | None

    def __init__(
        self,
        shape: AttentionShape,
        position: Position,
        *,
        dropout: Fraction = 0.0,
        soft_cap: Positive | None = None,
        sinks: bool = False,
        window: Window = "full",
        window_size: Count = 2048,
    ) -> None:
        super().__init__(shape, position, window=window, window_size=window_size)
        self.dropout, self.soft_cap = dropout, soft_cap
        self.register_parameter("sink", nn.Parameter(torch.empty(shape.num_heads)) if sinks else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the sinks' logits to 0."""
        if self.sink is not None:
            nn.init.zeros_(self.sink)

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Average the visible values by the softmax of their scores."""
        if self.soft_cap is not None:
            return self._capped(self.soft_cap).attend(q_BHQK, k_BHSK, v_BHSV, mask, bias)
        if self.sink is not None:
            mask, bias = F.pad(mask, (1, 0), value=True), None if bias is None else F.pad(bias, (1, 0))
            wide = add_sink(q_BHQK, k_BHSK, v_BHSV, self.sink, self.shape.scale)
            return self._attend(*wide, mask, bias)[..., :-1]
        return self._attend(q_BHQK, k_BHSK, v_BHSV, mask, bias)

    def _attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        masked = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_BHQK.dtype)
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, attn_mask=masked, **self._options())

    def attend_causal(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, bias: Tensor | None) -> Tensor:
        """Attend under the causal mask, without materializing it where there is no bias."""
        if bias is not None:
            return super().attend_causal(q_BHQK, k_BHSK, v_BHSV, bias)
        if self.soft_cap is not None:
            return self._capped(self.soft_cap).attend_causal(q_BHQK, k_BHSK, v_BHSV)
        if self.sink is None:
            return self._attend_causal(q_BHQK, k_BHSK, v_BHSV)
        # A query ahead of the others belongs to the sink, so that the causal mask is that of a kernel.
        q, k, v = add_sink(q_BHQK, k_BHSK, v_BHSV, self.sink, self.shape.scale)
        return self._attend_causal(F.pad(q, (0, 0, 1, 0)), k, v)[:, :, 1:, :-1]

    def _attend_causal(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor) -> Tensor:
        if self.training and self.dropout > 0:
            return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, is_causal=True, **self._options())
        return causal_attention(q_BHQK, k_BHSK, v_BHSV, self.shape.scale)

    def _capped(self, cap: float) -> CappedScores:
        return CappedScores(self.shape.scale, cap, self.sink, self.dropout if self.training else 0.0)

    def _options(self) -> dict[str, Any]:
        return {"dropout_p": self.dropout if self.training else 0.0, "scale": self.shape.scale}
