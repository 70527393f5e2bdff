"""The delta rule: a linear recurrence whose matrix state is corrected towards each value.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value, M chunks, C steps a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archlab.ops._chunk_scan import scan_chunks
from archlab.ops._chunks import chunk_size, decay_matrix, split_chunks, suffix_sum
from archlab.ops.dtypes import at_least_float32, without_autocast


def delta_rule(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    log_decay_BTH: Tensor | None,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run S_t = a_t (I - beta_t k_t k_tᵀ) S_{t-1} + beta_t k_t v_tᵀ; return y_t = q_t S_t [B, T, H, V] and the last S.

    a_t = exp(log_decay_t), at most 1, or 1 where log_decay is None. S is [B, H, K, V] in at least float32; y has v's
    dtype. Within a chunk the corrections solve a triangular system (arXiv:2406.06484, section 3).
    """
    with without_autocast(q_BTHK):
        q, k, v, beta = (at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, beta_BTH))
        log_decay = None if log_decay_BTH is None else at_least_float32(log_decay_BTH)
        state = v.new_zeros(*k[:, 0].shape, v.shape[-1]) if state_BHKV is None else at_least_float32(state_BHKV)
        run = delta_rule_reference if q.shape[1] == 1 else _chunked
        y_BTHV, state = run(q, k, v, beta, log_decay, state)
        return y_BTHV.to(v_BTHV.dtype), state


def delta_rule_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    log_decay_BTH: Tensor | None,
    state_BHKV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the same step by step: the definition, and the form for a single step."""
    q, k, v, beta = (at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, beta_BTH))
    decay = torch.ones_like(beta) if log_decay_BTH is None else at_least_float32(log_decay_BTH).exp()
    state = v.new_zeros(*k[:, 0].shape, v.shape[-1]) if state_BHKV is None else at_least_float32(state_BHKV)
    outputs = []
    for t in range(q.shape[1]):
        state = decay[:, t, :, None, None] * state
        recalled = (k[:, t, :, None] @ state)[..., 0, :]
        correction = beta[:, t, :, None] * (v[:, t] - recalled)
        state = state + k[:, t, :, :, None] * correction[:, :, None]
        outputs.append((q[:, t, :, None] @ state)[..., 0, :])
    return torch.stack(outputs, 1).to(v_BTHV.dtype), state


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, beta_BTH: Tensor, log_decay_BTH: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute chunk by chunk, with corrections that are linear in the state before the chunk."""
    # Let S be the state before a chunk, d(t, s) the decay after s up to t, and d(t) that of all its steps up to t. With
    # corrections u_t = beta_t (v_t - a_t k_t S_{t-1}), the state is S_t = a_t S_{t-1} + k_t u_tᵀ, so
    #     S_t = d(t) S + sum over s <= t of d(t, s) k_s u_sᵀ.
    # Inserted in the definition of u_t, with a_t d(t-1, s) = d(t, s):
    #     u_t + sum over s < t of beta_t d(t, s) (k_t · k_s) u_s = beta_t v_t - beta_t d(t) k_t S,
    # a unit lower triangular system. It is solved once for both right-hand sides: u = u_0 - w S.
    T = q.shape[1]
    log_decay_BTH = torch.zeros_like(beta_BTH) if log_decay_BTH is None else log_decay_BTH
    q, k, v, beta, log_decay = (
        split_chunks(x, chunk_size(T)) for x in (q, k, v, beta_BTH[..., None], log_decay_BTH[..., None])
    )
    decays, seen = decay_matrix(log_decay[..., 0]), log_decay.cumsum(-2).exp()
    system = beta * (k @ k.mT) * decays.tril(-1)
    solved = torch.linalg.solve_triangular(system, beta * torch.cat((k * seen, v), -1), upper=False, unitriangular=True)
    w_BHMCK, u_BHMCV = solved.split((k.shape[-1], v.shape[-1]), -1)
    # The state after the chunk, d(C) S + sum of d(C, s) k_s u_sᵀ, is an affine map of S.
    late_k_BHMKC = (k * suffix_sum(log_decay).exp()).mT
    kept = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device) * seen[..., -1:, :]
    starts, last = scan_chunks(kept - late_k_BHMKC @ w_BHMCK, late_k_BHMKC @ u_BHMCV, state)
    y_BHMCV = (q * seen) @ starts + ((q @ k.mT) * decays) @ (u_BHMCV - w_BHMCK @ starts)
    return y_BHMCV.flatten(2, 3)[:, :, :T].transpose(1, 2), last
