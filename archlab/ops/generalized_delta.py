"""Linear recurrences whose state is a matrix, changed by a diagonal and a matrix of rank one.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value, M blocks, C steps a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops._chunk_scan import scan_chunks
from archlab.ops._chunks import chunk_size, decayed_scores, split_chunks, suffix_sum
from archlab.ops.dtypes import at_least_float32, without_autocast


def generalized_delta(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    a_BTHK: Tensor,
    b_BTHK: Tensor,
    log_decay_BTHK: Tensor,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run S_t = (diag(exp(log_decay_t)) + b_t a_tᵀ) S_t-1 + k_t v_tᵀ; return y_t = q_t S_t [B, T, H, V] and the last S.

    The recurrence of RWKV-7 (arXiv:2503.14456), transposed; log_decay is at most 0. S is [B, H, K, V] in at
    least float32; y has v's dtype. Blocks are matrix products (as arXiv:2406.06484 for the delta rule), and only sums
    of decays between two steps are exponentiated, so none is too strong.
    """
    with without_autocast(q_BTHK):
        inputs = (at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, log_decay_BTHK))
        q, k, v, a, b, log_decay = inputs
        body = generalized_delta_reference if q.shape[1] == 1 else _in_blocks
        y_BTHV, state = body(q, k, v, a, b, log_decay, _first(k, v, state_BHKV))
        return y_BTHV.to(v_BTHV.dtype), state


def generalized_delta_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    a_BTHK: Tensor,
    b_BTHK: Tensor,
    log_decay_BTHK: Tensor,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Do the same one step after the other: the definition, for tests."""
    inputs = [at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, log_decay_BTHK)]
    state, outputs = _first(inputs[1], inputs[2], state_BHKV), []
    for q, k, v, a, b, log_decay in zip(*(x.unbind(1) for x in inputs), strict=True):
        read_BH1V = a[..., None, :] @ state
        state = log_decay.exp()[..., None] * state + b[..., None] * read_BH1V + k[..., None] * v[..., None, :]
        outputs.append((q[..., None, :] @ state)[..., 0, :])
    return torch.stack(outputs, 1).to(v_BTHV.dtype), state


def _first(k_BTHK: Tensor, v_BTHV: Tensor, state_BHKV: Tensor | None) -> Tensor:
    return v_BTHV.new_zeros(*k_BTHK[:, 0].shape, v_BTHV.shape[-1]) if state_BHKV is None else state_BHKV


def _in_blocks(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve for what every a_t reads in a block, as W times the state before it plus U, and so for all else."""
    T = q.shape[1]
    size = chunk_size(T)
    q, k, v, a, b, log_decay = (split_chunks(x, size) for x in (q, k, v, a, b, log_decay))
    qk, qb, ak, ab = _all_scores(q, k, a, b, log_decay)
    seen = log_decay.cumsum(-2)
    early_a = a * F.pad(log_decay[..., :-1, :], (0, 0, 1, 0)).cumsum(-2).exp()
    reads = torch.linalg.solve_triangular(-ab, torch.cat((early_a, ak @ v), -1), upper=False, unitriangular=True)
    W, U = reads.split((k.shape[-1], v.shape[-1]), -1)
    late_k, late_b = ((x * suffix_sum(log_decay).exp()).mT for x in (k, b))
    factors = torch.diag_embed(seen[..., -1, :].exp()) + late_b @ W
    starts, last = scan_chunks(factors, late_k @ v + late_b @ U, state)
    y_BHMCV = qk @ v + qb @ U + (q * seen.exp() + qb @ W) @ starts
    return y_BHMCV.flatten(2, 3)[:, :, :T].transpose(1, 2), last


def _all_scores(q: Tensor, k: Tensor, a: Tensor, b: Tensor, log_decay: Tensor) -> tuple[Tensor, ...]:
    """Return how q and a read what k and b wrote [B, H, M, C, C], a before the present step is written."""
    early_a = F.pad(a[..., 1:, :], (0, 0, 0, 1))
    scores = decayed_scores(torch.stack((q, early_a))[:, None], torch.stack((k, b)), log_decay)
    (qk, qb), (ak, ab) = scores[0], F.pad(scores[1], (0, 0, 1, -1))
    return qk, qb, ak, ab
