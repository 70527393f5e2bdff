"""Letters in suffixes: B batch, T time, H heads, G key heads, Q queries, S keys, K width of a key, V of a value."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import Count, choice, register
from archlab.components._ring import unroll_ring
from archlab.components.attention._shape import BY_HEADS, AttentionShape
from archlab.components.attention._window import WindowedAttention
from archlab.components.attention._window_state import Window
from archlab.components.position._base import Position
from archlab.ops.causal_attention import chunked_queries
from archlab.ops.dtypes import at_least_float32


@register(
    "attention",
    "stick_breaking",
    search={"own": choice("none", "key", "rest")},
    tensor=BY_HEADS,
    carry="associative",
)
class StickBreakingAttention(WindowedAttention):
    """Stick-breaking attention, in which each key breaks off a share of what nearer keys left (arXiv:2410.17980).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  With b_ij = sigmoid(scale q_i k_j), the weight
    of key j is b_ij prod_l (1 - b_il), over the keys l between it and query i. Weights add up to at most 1, and depend
    on the order of keys, so that position `none` is enough. State: that of WindowedAttention, which under `window:
    full` grows with every token. The weights of all pairs of a query and a key take memory.

    Args:
        own: The part of its own token that a query sees: `none` of it, as in the paper; its `key`, as the nearest one;
            or its value alone, with the `rest` that earlier keys left as its weight.
        window: Keys that a query sees: `full`, every earlier token of a stream of at most `window_size` tokens;
            `sliding`, the last `window_size` tokens including its own; `chunk`, its own block of `window_size` tokens.
        window_size: Length of the window in tokens, also the largest number of keys and values in the state.
    """

    def __init__(
        self,
        shape: AttentionShape,
        position: Position,
        *,
        own: Literal["none", "key", "rest"] = "none",
        window: Window = "full",
        window_size: Count = 2048,
    ) -> None:
        super().__init__(shape, position, window=window, window_size=window_size)
        self.own = own

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Sum the visible values, whose keys are in time order, by their weights."""
        scores_BHQS = at_least_float32(q_BHQK @ k_BHSK.mT) * self.shape.scale
        if bias is not None:
            scores_BHQS = scores_BHQS + bias.to(scores_BHQS.dtype)
        # Visible keys follow each other, up to the query's own, which is therefore the one without another after it.
        is_earlier = mask & F.pad(mask[..., 1:], (0, 1))
        takes_part = mask if self.own == "key" else is_earlier
        log_left_BHQS = F.logsigmoid(-scores_BHQS).masked_fill(~takes_part, 0.0)
        # A sum over nearer keys alone: a difference of sums over all would lose the digits of the nearest ones.
        log_left_BHQS = log_left_BHQS.flip(-1).cumsum(-1).flip(-1)
        log_weights_BHQS = F.logsigmoid(scores_BHQS) + F.pad(log_left_BHQS[..., 1:], (0, 1))
        weights_BHQS = torch.where(takes_part, log_weights_BHQS.exp(), 0.0)
        if self.own == "rest":
            weights_BHQS = weights_BHQS + log_left_BHQS[..., :1].exp() * (mask & ~is_earlier)
        return weights_BHQS.to(v_BHSV.dtype) @ v_BHSV

    def attend_causal(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, bias: Tensor | None) -> Tensor:
        """Attend under the causal mask, in chunks of queries against the keys up to each one's end."""
        steps = torch.arange(q_BHQK.shape[2], device=q_BHQK.device)

        def attend(start: int, end: int) -> Tensor:
            mask = (steps[start:end, None] >= steps[:end])[None, None]
            own_bias = None if bias is None else bias[..., start:end, :end]
            return self.attend(q_BHQK[:, :, start:end], k_BHSK[:, :, :end], v_BHSV[:, :, :end], mask, own_bias)

        return chunked_queries(attend, q_BHQK.shape[2])

    def _decode(self, q_B1HK: Tensor, entries_BS: tuple[Tensor, ...], position_B1: Tensor) -> Tensor:
        """Attend from a single token to the ring buffer in time order, on which the weights depend."""
        seen = tuple(unroll_ring(x, position_B1 + 1, x.shape[1]) for x in entries_BS)
        return self._extend(q_B1HK, seen, position_B1)
