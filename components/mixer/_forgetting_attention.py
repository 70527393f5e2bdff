"""Softmax attention with forget gates, whose logarithms add up in the scores.

Letters in suffixes: B batch, T time, H heads, G key heads, Q queries, S keys, K width of a key, V width of a value.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from archlab import State
from archlab.components.attention._shape import AttentionShape
from archlab.components.attention._window import WindowedAttention
from archlab.components.attention._window_state import Entries, Window
from archlab.components.position._base import Position
from archlab.ops.dtypes import at_least_float32


class ForgettingAttention(WindowedAttention):
    """Softmax of scores, to each of which the logarithms of the gates after the key's token are added.

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V], log gates: [B, T, H] -> [B, T, H, V].  State: that of
    WindowedAttention, and a ring of log gates [B, S, H] in at least float32. They are summed over a window at a time:
    no sum grows with the length of a stream.
    """

    rings: ClassVar[tuple[str, ...]] = ("keys", "values", "log_gates")

    def __init__(
        self, shape: AttentionShape, position: Position, *, dropout: float, window: Window, window_size: int
    ) -> None:
        super().__init__(shape, position, window=window, window_size=window_size)
        self.dropout = dropout

    def init_state(self, batch_size: int) -> State:
        """Return empty ring buffers at position 0."""
        log_gates = at_least_float32(self._device_anchor).new_zeros(batch_size, 0, self.shape.num_heads)
        return super().init_state(batch_size) | {"log_gates": log_gates}

    def summarize(  # type: ignore[override]
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, log_gate_BTH: Tensor
    ) -> State:
        """Return keys, values and log gates of a piece, or nothing where later pieces see none of it."""
        summary = super().summarize(q_BTHK, k_BTGK, v_BTGV)
        return summary and summary | {"log_gates": at_least_float32(log_gate_BTH)}

    def forward(  # type: ignore[override]
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, log_gate_BTH: Tensor, state: State | None = None
    ) -> tuple[Tensor | tuple[Tensor, Entries], State]:
        """Attend within the window, and store the new keys, values and log gates in the ring buffers."""
        return self._run(q_BTHK, (k_BTGK, v_BTGV, at_least_float32(log_gate_BTH)), state)

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Average the visible values by the softmax of their scores."""
        masked = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_BHQK.dtype)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, masked, dropout, scale=self.shape.scale)
