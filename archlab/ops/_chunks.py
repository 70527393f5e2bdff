"""What the recurrences that work in blocks share: cutting time, and sums of decays that cancel nowhere.

Letters in suffixes: B batch, T time, H heads, K width of a key, M blocks, C steps a block, J steps a
piece of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64


def chunk_size(num_tokens: int) -> int:
    """Return the power of two to cut time by."""
    return min(CHUNK, 1 << (num_tokens - 1).bit_length())


def split_chunks(x_BTHK: Tensor, size: int) -> Tensor:
    """Cut time into [B, H, M, size, K], the last block padded with zeros."""
    padded = F.pad(x_BTHK, (0, 0, 0, 0, 0, -x_BTHK.shape[1] % size))
    return padded.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4).contiguous()


def suffix_sum(log_decay: Tensor) -> Tensor:
    """Return the sum of what comes after each step, without a difference that could cancel."""
    return F.pad(log_decay[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


def decay_matrix(log_decay: Tensor) -> Tensor:
    """Return exp(sum of the decays after s up to t) [..., t, s], and zeros for s > t, from decays [..., C]."""
    C = log_decay.shape[-1]
    each = log_decay[..., :, None].expand(*log_decay.shape, C).tril(-1)
    return each.cumsum(-2).exp().tril()


def decayed_scores(q_C: Tensor, k_C: Tensor, log_decay_C: Tensor) -> Tensor:
    """Return q_t diag(exp(sum of the decays after s up to t)) k_s [..., C, C], with zeros above the diagonal."""
    if log_decay_C.shape[-1] == 1:
        return (q_C @ k_C.mT) * decay_matrix(log_decay_C[..., 0])
    scores = (q_C * k_C).sum(-1)[..., None, None]
    while scores.shape[-3] > 1:
        J = scores.shape[-1]
        early_k, late_q = _piece(k_C, J, 0), _piece(q_C, J, 1)
        early, late = _piece(log_decay_C, J, 0), _piece(log_decay_C, J, 1)
        across = (late_q * late.cumsum(-2).exp()) @ (early_k * suffix_sum(early).exp()).mT
        first, second = scores.unflatten(-3, (-1, 2)).unbind(-3)
        scores = torch.cat((F.pad(first, (0, J)), torch.cat((across, second), -1)), -2)
    return scores[..., 0, :, :]


def _piece(x_CK: Tensor, J: int, which: int) -> Tensor:
    return x_CK.unflatten(-2, (-1, 2, J))[..., which, :, :]
