"""Gated linear attention: a linear recurrence whose state is a matrix with a decay per row.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value, E either K or 1, M chunks,
C steps a chunk, W elements of a state that share a decay.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops._chunks import chunk_size, decay_matrix, decayed_scores, split_chunks, suffix_sum
from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import at_least_float32, without_autocast

GROUP = 16  # chunks whose states are one product with a matrix [GROUP + 1, GROUP] of decays


def gated_linear(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHE: Tensor | None,
    state_BHKV: Tensor | None = None,
    *,
    bonus_HK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ; return y_t = q_t S_t [B, T, H, V] and the last S.

    log_decay, at most 0, is [B, T, H, K], [B, T, H, 1] for one decay a head, or None for no decay. With a bonus, as in
    RWKV-6, the current step is weighted by it: y_t = q_t (S_{t-1} + diag(bonus) k_t v_tᵀ). S is [B, H, K, V] in at
    least float32; y has v's dtype. Decays of any strength are exact: only sums of log decays between two steps are
    exponentiated.
    """
    with without_autocast(q_BTHK):
        q, k, v = (at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV))
        log_decay = None if log_decay_BTHE is None else at_least_float32(log_decay_BTHE)
        state = v.new_zeros(*k[:, 0].shape, v.shape[-1]) if state_BHKV is None else at_least_float32(state_BHKV)
        if q.shape[1] == 1:
            y_BTHV, state = gated_linear_reference(q, k, v, log_decay, state, bonus_HK=bonus_HK)
        elif bonus_HK is None:
            y_BTHV, state = _scan(q, k, v, log_decay, state)
        else:
            y_BTHV, state = _with_bonus(q, k, v, log_decay, state, at_least_float32(bonus_HK))
        return y_BTHV.to(v_BTHV.dtype), state


def gated_linear_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTHE: Tensor | None,
    state_BHKV: Tensor | None = None,
    *,
    bonus_HK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the same step by step: the definition, and the form for a single step."""
    q, k, v = (at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV))
    state = v.new_zeros(*k[:, 0].shape, v.shape[-1]) if state_BHKV is None else at_least_float32(state_BHKV)
    outputs = []
    for t in range(q.shape[1]):
        before, added = state, k[:, t, :, :, None] * v[:, t, :, None]
        decayed = before if log_decay_BTHE is None else at_least_float32(log_decay_BTHE[:, t, ..., None]).exp() * before
        state = decayed + added
        seen = state if bonus_HK is None else before + bonus_HK[..., None] * added
        outputs.append((q[:, t, :, None] @ seen)[..., 0, :])
    return torch.stack(outputs, 1).to(v_BTHV.dtype), state


def _with_bonus(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor, bonus_HK: Tensor
) -> tuple[Tensor, Tensor]:
    """Scan keys, values and decays moved one step later, and add the current step, weighted by the bonus."""
    # The moved sequence has S_{t-1} as its state at t. Its last state lacks the last step, which is added by itself.
    moved_k, moved_v = _move_later(k), _move_later(v)
    moved_decay = None if log_decay is None else _move_later(log_decay)
    y_BTHV, before = _scan(q, moved_k, moved_v, moved_decay, state)
    current = (q * bonus_HK * k).sum(-1, keepdim=True) * v
    _, last = gated_linear_reference(
        q[:, -1:], k[:, -1:], v[:, -1:], None if log_decay is None else log_decay[:, -1:], before
    )
    return y_BTHV + current, last


def _move_later(x_BTHK: Tensor) -> Tensor:
    """Move one step later: a first step of zeros, whose log decay 0 keeps the state, and no last one."""
    return F.pad(x_BTHK[:, :-1], (0, 0, 0, 0, 1, 0))


def _scan(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    backend = find_backend("gated_linear", q)
    # The backend's backward pass goes step by step in few programs, so training keeps to the chunks' matrix products.
    if backend is None or torch.is_grad_enabled():
        return _chunked(q, k, v, log_decay, state)
    y_BTHV, last = backend(q, k, v, log_decay, state)
    return y_BTHV, last


def _chunked(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    # As gated linear attention (arXiv:2312.06635, section 4). With S the state before a chunk, D(t, s) the decay after
    # s up to t, and D(t) that of all its steps up to t:
    #     y_t = q_t D(t) S + sum over s <= t of (q_t D(t, s) k_s) v_s,
    # and the chunk adds the sum over s of D(C, s) k_s v_sᵀ to D(C) S.
    T = q.shape[1]
    size = chunk_size(T)
    q, k, v = (split_chunks(x, size) for x in (q, k, v))
    if log_decay is None:
        starts, last = _prefix_sums(k.mT @ v, state)
        y_BHMCV = (q @ k.mT).tril() @ v + q @ starts
    else:
        log_decay = split_chunks(log_decay, size)
        seen = log_decay.cumsum(-2)
        starts, last = scan_states((k * suffix_sum(log_decay).exp()).mT @ v, seen[..., -1, :], state)
        y_BHMCV = decayed_scores(q, k, log_decay) @ v + (q * seen.exp()) @ starts
    return y_BHMCV.flatten(2, 3)[:, :, :T].transpose(1, 2), last


def _prefix_sums(added_BHMKV: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and the last, without decay."""
    ends = torch.cat((state_BHKV[:, :, None], added_BHMKV), 2).cumsum(2)
    return ends[:, :, :-1], ends[:, :, -1].clone()


def scan_states(added_BHMKV: Tensor, log_decay_BHME: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk, and the last."""
    B, H, M, K, V = added_BHMKV.shape
    E = log_decay_BHME.shape[-1]
    added_BHEMW = added_BHMKV.reshape(B, H, M, E, -1).transpose(2, 3)
    starts_BHEMW, last = _scan_rows(added_BHEMW, log_decay_BHME.mT, state_BHKV.reshape(B, H, E, -1))
    return starts_BHEMW.transpose(2, 3).reshape(B, H, M, K, V), last.reshape(B, H, K, V)


def _scan_rows(added_BHEMW: Tensor, log_decay_BHEM: Tensor, state_BHEW: Tensor) -> tuple[Tensor, Tensor]:
    """Scan rows of W elements that share a decay: one product per group of chunks, and recursively between groups."""
    # The state before chunk t of a group is the sum over its chunks s < t of D(t-1, s) added_s, plus D(t-1, 0) times
    # the state before the group, where D(t, s) are the decays of the chunks after s up to t. A leading zero in
    # `shifted` moves the decays one chunk later, so that a row t of its decay matrix ends at chunk t - 1.
    M = added_BHEMW.shape[3]
    size = min(M, GROUP)
    added = F.pad(added_BHEMW, (0, 0, 0, -M % size)).unflatten(3, (-1, size))
    log_decay = F.pad(log_decay_BHEM, (0, -M % size)).unflatten(3, (-1, size))
    shifted = F.pad(log_decay, (1, 0))
    from_zero = decay_matrix(shifted)[..., 1:] @ added
    kept = shifted.cumsum(-1).exp()[..., None]
    ends, group_log_decay = from_zero[..., -1, :], log_decay.sum(-1)
    if size < M:
        group_starts, last = _scan_rows(ends, group_log_decay, state_BHEW)
    else:
        group_starts = state_BHEW[..., None, :]
        last = (ends + group_log_decay.exp()[..., None] * group_starts)[..., 0, :]
    starts = from_zero[..., :-1, :] + kept[..., :-1, :] * group_starts[..., None, :]
    return starts.flatten(3, 4)[:, :, :, :M], last
