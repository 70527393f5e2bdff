"""The delta rule: a linear recurrence whose matrix state is corrected towards each value.

Letters in suffixes: B batch, T time, N corrections a token, H heads, K width of a key, V width of a value, M chunks,
C steps a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops._chunk_scan import scan_chunks
from archlab.ops._chunks import chunk_size, decay_matrix, decayed_scores, split_chunks, suffix_sum
from archlab.ops.dtypes import at_least_float32, without_autocast


def delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    log_decay: Tensor | None,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run S_t = (I - beta_t k_t k_tᵀ) a_t S_{t-1} + beta_t k_t v_tᵀ; return y_t = q_t S_t [B, T, H, V] and the last S.

    a_t = exp(log_decay_t), at most 1, is a number per head [B, T, H], a diagonal of one per channel of the keys
    [B, T, H, K] (arXiv:2510.26692), or 1 where log_decay is None. S is [B, H, K, V] in at least float32; y has v's
    dtype. Within a chunk the corrections solve a triangular system (arXiv:2406.06484, section 3).
    """
    with without_autocast(q_BTHK):
        q, k, v, beta = (at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, beta_BTH))
        log_decay = None if log_decay is None else at_least_float32(log_decay)
        state = v.new_zeros(*k[:, 0].shape, v.shape[-1]) if state_BHKV is None else at_least_float32(state_BHKV)
        run = delta_rule_reference if q.shape[1] == 1 else _chunked
        y_BTHV, state = run(q, k, v, beta, log_decay, state)
        return y_BTHV.to(v_BTHV.dtype), state


def delta_product(
    q_BTHK: Tensor,
    k_BTNHK: Tensor,
    v_BTNHV: Tensor,
    beta_BTNH: Tensor,
    log_decay_BTH: Tensor | None,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the delta rule with N corrections for each token, of which the first decays S, and read S after the last.

    The transition of a token is a product of N generalized Householder matrices (arXiv:2502.10297).
    """
    N = k_BTNHK.shape[2]
    k, v, beta = (x.flatten(1, 2) for x in (k_BTNHK, v_BTNHV, beta_BTNH))
    # Queries of zeros read nothing at the other corrections, and logs of zero keep S.
    q = F.pad(q_BTHK[:, :, None], (0, 0, 0, 0, N - 1, 0)).flatten(1, 2)
    log_decay = None if log_decay_BTH is None else F.pad(log_decay_BTH[:, :, None], (0, 0, 0, N - 1)).flatten(1, 2)
    y_BTHV, state = delta_rule(q, k, v, beta, log_decay, state_BHKV)
    return y_BTHV[:, N - 1 :: N], state


def delta_rule_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    log_decay: Tensor | None,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the same step by step: the definition, and the form for a single step."""
    q, k, v, beta = (at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, beta_BTH))
    decay = torch.ones_like(beta) if log_decay is None else at_least_float32(log_decay).exp()
    decay = decay[..., None] if decay.dim() == beta.dim() else decay
    state = v.new_zeros(*k[:, 0].shape, v.shape[-1]) if state_BHKV is None else at_least_float32(state_BHKV)
    outputs = []
    for t in range(q.shape[1]):
        state = decay[:, t, ..., None] * state
        recalled = (k[:, t, :, None] @ state)[..., 0, :]
        correction = beta[:, t, :, None] * (v[:, t] - recalled)
        state = state + k[:, t, :, :, None] * correction[:, :, None]
        outputs.append((q[:, t, :, None] @ state)[..., 0, :])
    return torch.stack(outputs, 1).to(v_BTHV.dtype), state


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, beta_BTH: Tensor, log_decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute chunk by chunk, with corrections that are linear in the state before the chunk."""
    # Let S be the state before a chunk, d(t, s) the decay after s up to t, and d(t) that of all its steps up to t. With
    # corrections u_t = beta_t (v_t - k_t a_t S_{t-1}), the state is S_t = a_t S_{t-1} + k_t u_tᵀ, so
    #     S_t = d(t) S + sum over s <= t of d(t, s) k_s u_sᵀ.
    # Inserted in the definition of u_t, with a_t d(t-1, s) = d(t, s):
    #     u_t + sum over s < t of beta_t (k_t · d(t, s) k_s) u_s = beta_t v_t - beta_t k_t d(t) S,
    # a unit lower triangular system. It is solved once for both right-hand sides: u = u_0 - w S.
    T = q.shape[1]
    log_decay = torch.zeros_like(beta_BTH) if log_decay is None else log_decay
    per_channel = log_decay if log_decay.dim() == q.dim() else log_decay[..., None]
    q, k, v, beta, log_decay = (split_chunks(x, chunk_size(T)) for x in (q, k, v, beta_BTH[..., None], per_channel))
    (qk, kk), seen = _scores(q, k, log_decay), log_decay.cumsum(-2).exp()
    right = beta * torch.cat((k * seen, v), -1)
    solved = torch.linalg.solve_triangular((beta * kk).tril(-1), right, upper=False, unitriangular=True)
    w_BHMCK, u_BHMCV = solved.split((k.shape[-1], v.shape[-1]), -1)
    # The state after the chunk, d(C) S + sum of d(C, s) k_s u_sᵀ, is an affine map of S.
    late_k_BHMKC = (k * suffix_sum(log_decay).exp()).mT
    kept = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device) * seen[..., -1:, :]
    starts, last = scan_chunks(kept - late_k_BHMKC @ w_BHMCK, late_k_BHMKC @ u_BHMCV, state)
    y_BHMCV = (q * seen) @ starts + qk @ (u_BHMCV - w_BHMCK @ starts)
    return y_BHMCV.flatten(2, 3)[:, :, :T].transpose(1, 2), last


def _scores(q: Tensor, k: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decayed products of queries and keys with keys [B, H, M, C, C], zeros above the diagonal."""
    if log_decay.shape[-1] > 1:
        # One call for both shares the exponentials, which cost more than the products.
        qk, kk = decayed_scores(torch.stack((q, k)), k, log_decay)
        return qk, kk
    decays = decay_matrix(log_decay[..., 0])
    return (q @ k.mT) * decays, (k @ k.mT) * decays
