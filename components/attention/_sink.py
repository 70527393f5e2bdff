"""A sink: a key that all queries of a head see, with a score of its own and the value zero.

Letters in suffixes: B batch, H heads, Q queries, S keys, K width of a key, V width of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def add_sink(
    q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, sink_H: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, each one feature wider, with the sink ahead of the keys.

    The further feature is 1 in the sink's key alone, and sink / scale in every query: their product is the sink's
    score, so that any attention kernel computes it. That of the values is 0, and keeps their width equal to the keys'.
    """
    own_H111 = (sink_H / scale).to(q_BHQK.dtype)[:, None, None]
    q = torch.cat((q_BHQK, own_H111.expand(*q_BHQK.shape[:3], 1)), -1)
    k = F.pad(k_BHSK, (0, 1, 1, 0))
    is_sink = F.pad(k.new_ones(1, 1), (k.shape[-1] - 1, 0, 0, k.shape[-2] - 1))
    return q, k + is_sink, F.pad(v_BHSV, (0, 1, 1, 0))
