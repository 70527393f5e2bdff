"""Linear recurrences whose state is a matrix with a decay per row.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value, E either K or 1, M blocks,
C steps a block, W numbers of a state that decay as one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops._chunks import chunk_size, decay_matrix, decayed_scores, split_chunks, suffix_sum
from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import at_least_float32, without_autocast

GROUP = 16


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

    log_decay, at most 0, is [B, T, H, K], [B, T, H, 1] for one decay a head, or None for no decay. With a bonus the
    present is weighed by it and not by the decay: y_t = q_t (S_{t-1} + diag(bonus) k_t v_tᵀ). S is [B, H, K, V] in
    at least float32; y has v's dtype. Only sums of decays between two steps are exponentiated, so none is too strong.
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
    """Do the same one step after the other: the definition, for tests."""
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
    """Read the states one step late: those of inputs and decays that come one step later."""
    late_k, late_v = _late(k), _late(v)
    late_decay = None if log_decay is None else _late(log_decay)
    y_BTHV, before = _scan(q, late_k, late_v, late_decay, state)
    present = (q * bonus_HK * k).sum(-1, keepdim=True) * v
    _, last = gated_linear_reference(
        q[:, -1:], k[:, -1:], v[:, -1:], None if log_decay is None else log_decay[:, -1:], before
    )
    return y_BTHV + present, last


def _late(x_BTHK: Tensor) -> Tensor:
    return F.pad(x_BTHK[:, :-1], (0, 0, 0, 0, 1, 0))


def _scan(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    body = find_backend("gated_linear", q)
    # A faster body goes back step by step, in few programs, so training keeps to the products of blocks.
    if body is None or torch.is_grad_enabled():
        return _inblocks(q, k, v, log_decay, state)
    y_BTHV, last = body(q, k, v, log_decay, state)
    return y_BTHV, last


def _inblocks(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    T = q.shape[1]
    size = chunk_size(T)
    q, k, v = (split_chunks(x, size) for x in (q, k, v))
    if log_decay is None:
        starts, last = _sums(k.mT @ v, state)
        y_BHMCV = (q @ k.mT).tril() @ v + q @ starts
    else:
        log_decay = split_chunks(log_decay, size)
        seen = log_decay.cumsum(-2)
        starts, last = _carry((k * suffix_sum(log_decay).exp()).mT @ v, seen[..., -1, :], state)
        y_BHMCV = decayed_scores(q, k, log_decay) @ v + (q * seen.exp()) @ starts
    return y_BHMCV.flatten(2, 3)[:, :, :T].transpose(1, 2), last


def _sums(added_BHMKV: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each block, and the last, where nothing decays."""
    ends = torch.cat((state_BHKV[:, :, None], added_BHMKV), 2).cumsum(2)
    return ends[:, :, :-1], ends[:, :, -1].clone()


def _carry(added_BHMKV: Tensor, log_decay_BHME: Tensor, state_BHKV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each block, and the last."""
    B, H, M, K, V = added_BHMKV.shape
    E = log_decay_BHME.shape[-1]
    added_BHEMW = added_BHMKV.reshape(B, H, M, E, -1).transpose(2, 3)
    starts_BHEMW, last = _carry_rows(added_BHEMW, log_decay_BHME.mT, state_BHKV.reshape(B, H, E, -1))
    return starts_BHEMW.transpose(2, 3).reshape(B, H, M, K, V), last.reshape(B, H, K, V)


def _carry_rows(added_BHEMW: Tensor, log_decay_BHEM: Tensor, state_BHEW: Tensor) -> tuple[Tensor, Tensor]:
    """Do the same for rows of W numbers that decay as one: products in groups of blocks, and itself between groups."""
    M = added_BHEMW.shape[3]
    size = min(M, GROUP)
    added = F.pad(added_BHEMW, (0, 0, 0, -M % size)).unflatten(3, (-1, size))
    log_decay = F.pad(log_decay_BHEM, (0, -M % size)).unflatten(3, (-1, size))
    shifted = F.pad(log_decay, (1, 0))
    alone = decay_matrix(shifted)[..., 1:] @ added
    reach = shifted.cumsum(-1).exp()[..., None]
    ends, factors = alone[..., -1, :], log_decay.sum(-1)
    if size < M:
        first, last = _carry_rows(ends, factors, state_BHEW)
    else:
        first = state_BHEW[..., None, :]
        last = (ends + factors.exp()[..., None] * first)[..., 0, :]
    starts = alone[..., :-1, :] + reach[..., :-1, :] * first[..., None, :]
    return starts.flatten(3, 4)[:, :, :, :M], last
