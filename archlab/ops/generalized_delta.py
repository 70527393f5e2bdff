"""The generalized delta rule: a linear recurrence whose transition is a diagonal plus a matrix of rank one.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value, M chunks, C steps a chunk.
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
    least float32; y has v's dtype. Chunks are matrix products (as in arXiv:2406.06484 for the delta rule).
    Decays of any strength are exact: only sums of log decays between two steps are exponentiated.
    """
    with without_autocast(q_BTHK):
        inputs = (at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, log_decay_BTHK))
        q, k, v, a, b, log_decay = inputs
        run = generalized_delta_reference if q.shape[1] == 1 else _chunked
        y_BTHV, state = run(q, k, v, a, b, log_decay, _initial_state(k, v, state_BHKV))
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
    """Compute the same step by step: the definition, and the form for a single step."""
    inputs = [at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, a_BTHK, b_BTHK, log_decay_BTHK)]
    state, outputs = _initial_state(inputs[1], inputs[2], state_BHKV), []
    for q, k, v, a, b, log_decay in zip(*(x.unbind(1) for x in inputs), strict=True):
        read_BH1V = a[..., None, :] @ state
        state = log_decay.exp()[..., None] * state + b[..., None] * read_BH1V + k[..., None] * v[..., None, :]
        outputs.append((q[..., None, :] @ state)[..., 0, :])
    return torch.stack(outputs, 1).to(v_BTHV.dtype), state


def _initial_state(k_BTHK: Tensor, v_BTHV: Tensor, state_BHKV: Tensor | None) -> Tensor:
    return v_BTHV.new_zeros(*k_BTHK[:, 0].shape, v_BTHV.shape[-1]) if state_BHKV is None else state_BHKV


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute chunk by chunk, with reads of the state that are linear in the state before the chunk."""
    # Let S be the state before a chunk, D(t, s) the diagonal decay after s up to t, and r_t = a_tᵀ S_{t-1} the read of
    # step t. Unrolled, S_t = D(t, 0) S + sum over s <= t of D(t, s) (k_s v_sᵀ + b_s r_s), so
    #     r_t = a_tᵀ D(t-1, 0) S + sum over s < t of a_tᵀ D(t-1, s) (k_s v_sᵀ + b_s r_s).
    # With the scores ak and ab of a against k and b, (I - ab) r = decayed_a S + ak v: a unit lower triangular system,
    # solved once for both right-hand sides: r = W S + U. The outputs q_t S_t and the state after the chunk follow.
    T = q.shape[1]
    size = chunk_size(T)
    q, k, v, a, b, log_decay = (split_chunks(x, size) for x in (q, k, v, a, b, log_decay))
    qk, qb, ak, ab = _all_scores(q, k, a, b, log_decay)
    seen = log_decay.cumsum(-2)
    decayed_a = a * F.pad(log_decay[..., :-1, :], (0, 0, 1, 0)).cumsum(-2).exp()
    reads = torch.linalg.solve_triangular(-ab, torch.cat((decayed_a, ak @ v), -1), upper=False, unitriangular=True)
    W, U = reads.split((k.shape[-1], v.shape[-1]), -1)
    late_k, late_b = ((x * suffix_sum(log_decay).exp()).mT for x in (k, b))
    kept = torch.diag_embed(seen[..., -1, :].exp()) + late_b @ W
    starts, last = scan_chunks(kept, late_k @ v + late_b @ U, state)
    y_BHMCV = qk @ v + qb @ U + (q * seen.exp() + qb @ W) @ starts
    return y_BHMCV.flatten(2, 3)[:, :, :T].transpose(1, 2), last


def _all_scores(q: Tensor, k: Tensor, a: Tensor, b: Tensor, log_decay: Tensor) -> tuple[Tensor, ...]:
    """Return the decayed scores of q and a against k and b [B, H, M, C, C]; those of a end at the step before."""
    # a_t sees the decays up to t - 1, as if it stood one step earlier: it is moved there, and its rows back. One call
    # for all four scores shares the exponentials, which cost more than the products.
    moved_a = F.pad(a[..., 1:, :], (0, 0, 0, 1))
    scores = decayed_scores(torch.stack((q, moved_a))[:, None], torch.stack((k, b)), log_decay)
    (qk, qb), (ak, ab) = scores[0], F.pad(scores[1], (0, 0, 1, -1))
    return qk, qb, ak, ab
