"""The WKV operator of RWKV-4: averages of values weighted by exponentials of keys, with a decay per channel.

Letters in suffixes: B batch, T time, D channels, M chunks, C steps a chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.ops.dtypes import at_least_float32, without_autocast

CHUNK = 16
EMPTY = -1e38  # in place of -inf, whose difference with itself is NaN; twice it is still a float32


class WKVState(NamedTuple):
    """Sums of e^key value and of e^key, both divided by e^peak, where peak is the largest decayed key among them.

    The peak keeps exponentials at most 1, as in a softmax. It cancels in num / den, so its gradient is zero, and it is
    detached.
    """

    num: Tensor
    den: Tensor
    peak: Tensor


def init_wkv_state(like_BD: Tensor) -> WKVState:
    """Return the state before the first token, each part [B, D] in at least float32."""
    zeros = torch.zeros_like(at_least_float32(like_BD))
    return WKVState(zeros, zeros.clone(), zeros + EMPTY)


def wkv(
    k_BTD: Tensor, v_BTD: Tensor, log_decay_D: Tensor, bonus_D: Tensor, state: WKVState | None = None
) -> tuple[Tensor, WKVState]:
    """Return the averages of RWKV-4 [B, T, D] and the last state, eq. 16 of arXiv:2305.13048.

    y_t = (e^(bonus + k_t) v_t + num_t-1) / (e^(bonus + k_t) + den_t-1) for num_t = e^log_decay num_t-1 + e^k_t v_t and
    den alike, with log_decay at most 0. The state's parts are [B, D] in at least float32; y has v's dtype.
    """
    with without_autocast(k_BTD):
        k, v, log_decay = (at_least_float32(x) for x in (k_BTD, v_BTD, log_decay_D))
        initial, T = state or init_wkv_state(k[:, 0]), k.shape[1]
        C = min(CHUNK, T)
        # All chunks are scanned in parallel from empty states, then the states before the chunks; a step's state joins
        # both. Joining is associative, which makes this exact.
        k_BMCD, v_BMCD = (F.pad(x, (0, 0, 0, -T % C)).unflatten(1, (-1, C)) for x in (k, v))
        from_empty = _scan_within(k_BMCD, v_BMCD, log_decay)
        starts = _chunk_starts(WKVState(*(x[:, :-1, -1] for x in from_empty)), C * log_decay, initial)
        gaps_CD = torch.arange(1, C + 1, device=k.device)[:, None] * log_decay
        after = _join(WKVState(*(x[:, :, None] for x in starts)), gaps_CD, from_empty)
        after = WKVState(*(x.flatten(1, 2)[:, :T] for x in after))
        before = WKVState(*(torch.cat((x[:, None], y[:, :-1]), 1) for x, y in zip(initial, after, strict=True)))
        seen = _join(before, torch.zeros_like(log_decay), _one(k + at_least_float32(bonus_D), v))
        return (seen.num / seen.den).to(v_BTD.dtype), WKVState(*(x[:, -1].clone() for x in after))


def wkv_reference(
    k_BTD: Tensor, v_BTD: Tensor, log_decay_D: Tensor, bonus_D: Tensor, state: WKVState | None = None
) -> tuple[Tensor, WKVState]:
    """Compute the same step by step: the definition, for tests."""
    k, v, log_decay, bonus = (at_least_float32(x) for x in (k_BTD, v_BTD, log_decay_D, bonus_D))
    state, outputs = state or init_wkv_state(k[:, 0]), []
    for k_BD, v_BD in zip(k.unbind(1), v.unbind(1), strict=True):
        seen = _join(state, torch.zeros_like(log_decay), _one(k_BD + bonus, v_BD))
        outputs.append(seen.num / seen.den)
        state = _join(state, log_decay, _one(k_BD, v_BD))
    return torch.stack(outputs, 1).to(v_BTD.dtype), state


def _one(k: Tensor, v: Tensor) -> WKVState:
    """Return the state of a single step."""
    return WKVState(v, torch.ones_like(v), k)


def _join(early: WKVState, gap: Tensor, late: WKVState) -> WKVState:
    """Add two states, the earlier one decayed by e^gap."""
    decayed = early.peak + gap
    peak = torch.maximum(decayed, late.peak).detach()
    old, new = (decayed - peak).exp(), (late.peak - peak).exp()
    return WKVState(old * early.num + new * late.num, old * early.den + new * late.den, peak)


def _scan_within(k_BMCD: Tensor, v_BMCD: Tensor, log_decay_D: Tensor) -> WKVState:
    """Return the state after every step of each chunk [B, M, C, D], from an empty state before the chunk."""
    steps: list[WKVState] = []
    for k_BMD, v_BMD in zip(k_BMCD.unbind(2), v_BMCD.unbind(2), strict=True):
        step = _one(k_BMD, v_BMD)
        steps.append(_join(steps[-1], log_decay_D, step) if steps else step)
    return WKVState(*(torch.stack(x, 2) for x in zip(*steps, strict=True)))


def _chunk_starts(ends: WKVState, gap_D: Tensor, initial: WKVState) -> WKVState:
    """Return the state before each chunk [B, M, D] by a parallel prefix sum (Hillis and Steele) in log2(M) steps."""
    starts = WKVState(*(torch.cat((x[:, None], y), 1) for x, y in zip(initial, ends, strict=True)))
    reach = 1
    while reach < starts.num.shape[1]:
        joined = _join(
            WKVState(*(x[:, :-reach] for x in starts)), reach * gap_D, WKVState(*(x[:, reach:] for x in starts))
        )
        starts = WKVState(*(torch.cat((x[:, :reach], y), 1) for x, y in zip(starts, joined, strict=True)))
        reach *= 2
    return starts
