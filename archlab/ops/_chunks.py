"""Helpers of chunked recurrences: splitting the sequence into chunks, and products of decays without cancellation.

Decays are given by their logs. The decay from step s to step t is the exponential of a sum of logs, never of a
difference of prefix sums: L_t - L_s loses its digits where both are large, and is NaN where both are -inf. It is never
a quotient exp(L_t) / exp(L_s) either, whose factors underflow and overflow under strong decay.

Letters in suffixes: B batch, T time, H heads, K width of a key, M chunks, C steps a chunk, J steps a piece of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64  # the usual size of linear attention's chunks: products of 64 x 64 are efficient, their cost still small


def chunk_size(num_tokens: int) -> int:
    """Return the steps of a chunk: a power of two, as `decayed_scores` halves it, and at most CHUNK."""
    if isinstance(num_tokens, torch.SymInt):  # a program is traced for any number
        return CHUNK
    return min(CHUNK, 1 << (num_tokens - 1).bit_length())


def split_chunks(x_BTHK: Tensor, size: int) -> Tensor:
    """Split time into chunks [B, H, M, size, K], the last one padded with zeros."""
    T = x_BTHK.shape[1]
    # Without a modulus where there is one chunk: its size is then known where T is not, in a program that is traced.
    padded = F.pad(x_BTHK, (0, 0, 0, 0, 0, size - T if size >= T else -T % size))
    return padded.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4).contiguous()


def suffix_sum(log_decay: Tensor) -> Tensor:
    """Return the sum over the steps after each step, exclusive."""
    return F.pad(log_decay[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


def decay_matrix(log_decay: Tensor) -> Tensor:
    """Return exp(sum of the log decays after s up to t) [..., t, s], zeros for s > t, from log decays [..., C]."""
    C = log_decay.shape[-1]
    # Column s holds the log decays of the steps after s alone, so that its prefix sums begin at s.
    after_s = log_decay[..., :, None].expand(*log_decay.shape, C).tril(-1)
    return after_s.cumsum(-2).exp().tril()


def decayed_scores(q_C: Tensor, k_C: Tensor, log_decay_C: Tensor) -> Tensor:
    """Return q_t diag(exp(sum of the log decays after s up to t)) k_s [..., C, C], with zeros above the diagonal."""
    if log_decay_C.shape[-1] == 1:
        return (q_C @ k_C.mT) * decay_matrix(log_decay_C[..., 0])
    # With a decay per channel, a matrix [C, C, K] of decays would be too large. The decay from s to t factors at any
    # point between them, so pieces are merged two by two: for s in the early piece and t in the late one, it is the
    # decay from s to the end of the early piece, times that from there to t. Both factors are at most 1. This makes
    # log2(C) levels of matrix products; the diagonal (s = t) has no decay.
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
    """Return the early (0) or the late (1) piece of each pair of pieces of J steps."""
    return x_CK.unflatten(-2, (-1, 2, J))[..., which, :, :]
