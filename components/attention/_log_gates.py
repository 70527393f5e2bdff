"""Biases of scores that fall by a log gate with every token between a key and a query.

Letters in suffixes: B batch, R batch and blocks, H heads, Q queries, S keys or slots of a ring.
"""

from __future__ import annotations

import torch
from torch import Tensor


def add_bias(bias: Tensor | None, fall_RHQS: Tensor) -> Tensor:
    """Return both biases, of which one need not be there."""
    return fall_RHQS if bias is None else bias + fall_RHQS


def fall(gates_RSH: Tensor, num_queries: int) -> Tensor:
    """Return the sums [R, H, Q, S] of the log gates after each key, up to each of the queries, the last of the keys."""
    sum_RHS = gates_RSH.mT.cumsum(-1)
    return sum_RHS[..., -num_queries:, None] - sum_RHS[..., None, :]


def fall_in_ring(gates_BSH: Tensor, slot_B1: Tensor) -> Tensor:
    """Return the sums [B, H, 1, S] of the log gates after each key of a ring, up to a query's in its slot."""
    sum_BHS, slot_B11 = gates_BSH.mT.cumsum(-1), slot_B1[:, None]
    # Slots behind the query's have been read before the slots ahead of it.
    is_before_B1S = torch.arange(sum_BHS.shape[-1], device=sum_BHS.device) > slot_B11
    query_BH1 = sum_BHS.gather(-1, slot_B11.expand(*sum_BHS.shape[:2], 1))
    return (query_BH1 - sum_BHS + is_before_B1S * sum_BHS[..., -1:])[:, :, None]
