from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.components.position._base import Position
from archlab.domains import Count, Fraction
from archlab.ops.precision import at_least_float32
from archlab.registry import register

from ._window import Window, Windowed

ROWS = 4


@register("attention", "softmax")
class SoftmaxAttention(Windowed):
    """Softmax of scaled dot products (arXiv:1706.03762) over a window, through PyTorch's fused attention."""

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
        if self._is_unequal_on_cpu(q_BHQK):
            return self._attend_rows(q_BHQK, k_BHSK, v_BHSV)
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, is_causal=True, **self._options())

    def _is_unequal_on_cpu(self, q_BHQK: Tensor) -> bool:
        """Tell where PyTorch's fused attention would fall back: values of another width than keys, on a CPU."""
        dropped = self.training and self.dropout > 0
        return q_BHQK.device.type == "cpu" and self.key_dim != self.value_dim and not dropped

    def _attend_rows(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor) -> Tensor:
        """Attend in a few blocks of queries, so that most of the keys that none of them sees are left out."""
        size = -(-q_BHQK.shape[2] // ROWS)
        ends = range(size, q_BHQK.shape[2] + size, size)
        parts = zip(q_BHQK.split(size, 2), ends, strict=True)
        rows = [self._attend_last(q_BHRK, k_BHSK[:, :, :end], v_BHSV[:, :, :end]) for q_BHRK, end in parts]
        return torch.cat(rows, 2)

    def _attend_last(self, q_BHRK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor) -> Tensor:
        """Attend with queries that are the last of the keys' steps."""
        R, S = q_BHRK.shape[2], k_BHSK.shape[2]
        scores = (q_BHRK * self.scale) @ k_BHSK.mT
        hidden = torch.ones(R, S, dtype=torch.bool, device=scores.device).triu(S - R + 1)
        weights = at_least_float32(scores.masked_fill(hidden, float("-inf"))).softmax(-1)
        return weights.to(v_BHSV.dtype) @ v_BHSV

    def _options(self) -> dict[str, Any]:
        return {"dropout_p": self.dropout if self.training else 0.0, "scale": self.scale}
