"""Causal softmax attention.

Letters in suffixes: B batch, H heads, T time, S keys, R queries of a chunk, K width of a key, V width of a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import at_least_float32

NUM_CHUNKS = 4  # of queries: 10 of the 16 pairs with chunks of keys are computed


def causal_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q kᵀ) v over the keys up to each query's own, [B, H, T, V] (arXiv:1706.03762).

    The device's backend computes it where there is one for the dtype, otherwise PyTorch's fused attention.
    """
    backend = find_backend("causal_attention", q_BHTK)
    y_BHTV = NotImplemented if backend is None else backend(q_BHTK, k_BHTK, v_BHTV, scale)
    if y_BHTV is not NotImplemented:
        return cast(Tensor, y_BHTV)
    # On a CPU PyTorch has no fused kernel for values of another width than keys, and computes all T x T weights.
    if q_BHTK.device.type == "cpu" and q_BHTK.shape[-1] != v_BHTV.shape[-1]:
        return chunked_queries(
            lambda start, end: causal_attention_reference(
                q_BHTK[:, :, start:end], k_BHTK[:, :, :end], v_BHTV[:, :, :end], scale
            ),
            q_BHTK.shape[2],
        )
    return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTV, is_causal=True, scale=scale)


def causal_attention_reference(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor:
    """Compute the same with all weights at once; the queries are those of the last of the keys' steps."""
    R, S = q_BHTK.shape[2], k_BHTK.shape[2]
    scores = (q_BHTK * scale) @ k_BHTK.mT
    masked = torch.ones(R, S, dtype=torch.bool, device=scores.device).triu(S - R + 1)
    weights = at_least_float32(scores.masked_fill(masked, float("-inf"))).softmax(-1)
    return weights.to(v_BHTV.dtype) @ v_BHTV


def chunked_queries(attend: Callable[[int, int], Tensor], num_queries: int) -> Tensor:
    """Return the outputs [B, H, T, V] of a few chunks of queries, one after the other.

    `attend(start, end)` attends from these queries to the keys up to their end, which may be past the last one: this
    skips most masked weights.
    """
    size = -(-num_queries // NUM_CHUNKS)
    return torch.cat([attend(start, start + size) for start in range(0, num_queries, size)], 2)
