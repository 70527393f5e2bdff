"""Softmax attention with capped scores, which no fused kernel of PyTorch has: the weights are computed.

Letters in suffixes: B batch, H heads, Q queries, S keys, K width of a key, V width of a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops.causal_attention import chunked_queries
from archlab.ops.dtypes import at_least_float32


@dataclass(frozen=True)
class CappedScores:
    """Attention with scores cap * tanh(scale q kᵀ / cap), and a logit per head beside those of the keys, or None."""

    scale: float
    cap: float
    sink_H: Tensor | None
    dropout: float

    def attend(
        self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Return [B, H, Q, V], the visible values averaged by the softmax of their capped scores."""
        scores_BHQS = self.cap * torch.tanh(at_least_float32(q_BHQK @ k_BHSK.mT) * (self.scale / self.cap))
        if bias is not None:
            scores_BHQS = scores_BHQS + bias.to(scores_BHQS.dtype)
        # Not -inf: the padding of a last block are queries without a visible key, whose gradient has to be finite.
        scores_BHQS = scores_BHQS.masked_fill(~mask, torch.finfo(scores_BHQS.dtype).min)
        weights_BHQS = self._softmax(scores_BHQS).to(v_BHSV.dtype)
        return F.dropout(weights_BHQS, self.dropout) @ v_BHSV

    def attend_causal(self, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor) -> Tensor:
        """Return the same under the causal mask, in chunks of queries against the keys up to each one's end."""
        step_T = torch.arange(q_BHTK.shape[2], device=q_BHTK.device)

        def attend_chunk(start: int, end: int) -> Tensor:
            mask = step_T[start:end, None] >= step_T[:end]
            return self.attend(q_BHTK[:, :, start:end], k_BHTK[:, :, :end], v_BHTV[:, :, :end], mask)

        return chunked_queries(attend_chunk, q_BHTK.shape[2])

    def _softmax(self, scores_BHQS: Tensor) -> Tensor:
        if self.sink_H is None:
            return scores_BHQS.softmax(-1)
        sink_BHQ1 = self.sink_H.to(scores_BHQS.dtype)[:, None, None].expand(*scores_BHQS.shape[:3], 1)
        return torch.cat((scores_BHQS, sink_BHQ1), -1).softmax(-1)[..., :-1]
