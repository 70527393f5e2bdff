"""Softmax attention of each query to the keys of blocks of its own choice.

Letters in suffixes: B batch, H heads, G key heads, T queries, J blocks that a query reads, S keys, N blocks of them,
K width of a key, V width of a value.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops.dispatch import find_backend


def block_attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSV: Tensor,
    blocks_BGTJ: Tensor,
    step_BT: Tensor,
    bias: Tensor | None = None,
    *,
    block_size: int,
    scale: float,
) -> Tensor:
    """Return softmax(scale q kᵀ + bias) v over the keys of a query's blocks up to its own step, [B, H, T, V].

    `step_BT` are the queries' steps among the keys, one after the other, with rows for all samples or one; `blocks` are
    different from each other, none of them after the query's own, which is one of them, and N in place of a block that
    is not there. A bias has a number for every query and key. A device's backend computes no more than the pairs that
    are read, where that is faster.
    """
    backend = find_backend("block_attention", q_BHTK) if bias is None else None
    y_BHTV = NotImplemented
    if backend is not None:
        y_BHTV = backend(q_BHTK, k_BGSK, v_BGSV, blocks_BGTJ, step_BT, block_size, scale)
    if y_BHTV is not NotImplemented:
        return cast(Tensor, y_BHTV)
    return block_attention_reference(
        q_BHTK, k_BGSK, v_BGSV, blocks_BGTJ, step_BT, bias, block_size=block_size, scale=scale
    )


def block_attention_reference(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSV: Tensor,
    blocks_BGTJ: Tensor,
    step_BT: Tensor,
    bias: Tensor | None = None,
    *,
    block_size: int,
    scale: float,
) -> Tensor:
    """Compute the same with all pairs of a query and a key, those that are not read under a mask."""
    step_S, group_size = torch.arange(k_BGSK.shape[2], device=q_BHTK.device), q_BHTK.shape[1] // k_BGSK.shape[1]
    num_blocks = -(-k_BGSK.shape[2] // block_size)
    is_read_BGTN = torch.zeros(*blocks_BGTJ.shape[:3], num_blocks + 1, dtype=torch.bool, device=q_BHTK.device).scatter(
        -1, blocks_BGTJ, True
    )
    mask_BGTS = is_read_BGTN[..., step_S // block_size] & (step_BT[..., None] >= step_S)[:, None]
    mask, k_BHSK, v_BHSV = (x.repeat_interleave(group_size, dim=1) for x in (mask_BGTS, k_BGSK, v_BGSV))
    if bias is not None:
        mask = bias.masked_fill(~mask, float("-inf")).to(q_BHTK.dtype)
    return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSV, mask, scale=scale)
