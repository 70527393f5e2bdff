"""Softmax attention in which every step sees the keys up to its own.

Letters in suffixes: B batch, H heads, T time, S keys, R queries of a block, K width of a key, V width of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import at_least_float32, product_dtype

BLOCKS = 4


def causal_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q kᵀ) v over the keys up to each query's own, [B, H, T, V] (arXiv:1706.03762).

    A faster body for the device is taken where one is installed and the products are float32. The plain form is
    PyTorch's fused attention, which has none on a CPU for values of another width than keys: there, blocks of queries.
    """
    body = find_backend("causal_attention", q_BHTK)
    if body is not None and product_dtype(q_BHTK) == torch.float32:
        return body(q_BHTK, k_BHTK, v_BHTV, scale)
    if q_BHTK.device.type == "cpu" and q_BHTK.shape[-1] != v_BHTV.shape[-1]:
        return _block_by_block(q_BHTK, k_BHTK, v_BHTV, scale)
    return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTV, is_causal=True, scale=scale)


def causal_attention_reference(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor:
    """Do the same with the weights of all queries at once, queries being the last of the keys' steps."""
    R, S = q_BHTK.shape[2], k_BHTK.shape[2]
    scores = (q_BHTK * scale) @ k_BHTK.mT
    hidden = torch.ones(R, S, dtype=torch.bool, device=scores.device).triu(S - R + 1)
    weights = at_least_float32(scores.masked_fill(hidden, float("-inf"))).softmax(-1)
    return weights.to(v_BHTV.dtype) @ v_BHTV


def _block_by_block(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor:
    """Attend in a few blocks of queries, so that most of the keys that none of them sees are left out."""
    size = -(-q_BHTK.shape[2] // BLOCKS)
    ends = range(size, q_BHTK.shape[2] + size, size)
    parts = zip(q_BHTK.split(size, 2), ends, strict=True)
    blocks = [
        causal_attention_reference(q_BHRK, k_BHTK[:, :, :end], v_BHTV[:, :, :end], scale) for q_BHRK, end in parts
    ]
    return torch.cat(blocks, 2)
