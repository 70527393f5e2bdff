"""Log-linear attention: gated linear attention with a matrix for each of logarithmically many ranges of the past.

A token s and a later one t differ, as binary numbers, in a highest bit: its place, counted from 1, is their level, and
0 that of t with itself. Before t, the tokens of one level are a range whose length is a power of two, a Fenwick tree's:
one range for each bit of t that is set.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value, L levels from 0 on, P levels from 1
on, C steps a chunk, M chunks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archlab.ops._chunks import chunk_size, decayed_scores, split_chunks, suffix_sum
from archlab.ops.dtypes import at_least_float32, without_autocast


def log_linear(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    log_decay_BTH: Tensor,
    scales_BTHL: Tensor,
    position_B: Tensor,
    state_BPHKV: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return y_t, the sum over s <= t of scales_t[level(s, t)] exp(log decays after s up to t) (q_t k_s) v_s, and S.

    S [B, P, H, K, V], in at least float32, holds the sum of k v of each level from 1 on before the token at `position`,
    decayed to it, and has to have room for the last one's. Of L levels the last, L - 1, is that of all higher ones too.
    """
    with without_autocast(q_BTHK):
        q, k, v, log_decay, scales = (
            at_least_float32(x) for x in (q_BTHK, k_BTHK, v_BTHV, log_decay_BTH[..., None], scales_BTHL)
        )
        T, num_scales = q.shape[1], scales.shape[-1]
        size = chunk_size(T)
        q, k, v, log_decay, scales = (split_chunks(x, size) for x in (q, k, v, log_decay, scales))
        start_BM = position_B[:, None] + size * torch.arange(q.shape[2], device=q.device)
        y_BHMCV = _inside(q, k, v, log_decay, scales, start_BM)
        seen, late_k = (q * log_decay.cumsum(-2).exp()), k * suffix_sum(log_decay).exp()
        kept_BHM = log_decay.sum((-2, -1)).exp()
        S, outputs = at_least_float32(state_BPHKV), []
        for m in range(q.shape[2]):
            # Padding after the last token has keys of zeros; only where the chunk ends matters.
            start_B, num_steps = start_BM[:, m], min(size, T - m * size)
            outputs.append(_read(seen[:, :, m], scales[:, :, m], S, start_B, num_scales))
            S = kept_BHM[:, None, :, m, None, None] * _merge(S, start_B, start_B + num_steps)
            S = S + _write(late_k[:, :, m], v[:, :, m], start_B, start_B + num_steps, S.shape[1])
        y_BHMCV = y_BHMCV + torch.stack(outputs, 2)
        return y_BHMCV.flatten(2, 3)[:, :, :T].transpose(1, 2).to(v_BTHV.dtype), S


def levels(number: Tensor, num_levels: int) -> Tensor:
    """Return the place of the highest bit of integers that is set, counted from 1, at most `num_levels`; 0 for 0."""
    return ((number[..., None] >> torch.arange(num_levels, device=number.device)) > 0).sum(-1)


def _inside(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scales: Tensor, start_BM: Tensor) -> Tensor:
    """Return the outputs from within each chunk [B, H, M, C, V]."""
    steps = start_BM[..., None] + torch.arange(q.shape[3], device=q.device)
    level_BMCC = levels(steps[..., :, None] ^ steps[..., None, :], scales.shape[-1] - 1)
    index = level_BMCC[:, None].expand(*q.shape[:4], q.shape[3])
    return (decayed_scores(q, k, log_decay) * scales.gather(-1, index)) @ v


def _read(q_BHCK: Tensor, scales_BHCL: Tensor, S_BPHKV: Tensor, start_B: Tensor, num_scales: int) -> Tensor:
    """Return the outputs of tokens from `start` on from the earlier ones [B, H, C, V]."""
    P, C = S_BPHKV.shape[1], q_BHCK.shape[2]
    # Of the tokens before `start`, those that differ from it in bit p at the highest differ from t in that bit or, if
    # t and `start` differ in a higher one, in that.
    level_BC = levels(start_B[:, None] ^ (start_B[:, None] + torch.arange(C, device=start_B.device)), num_scales - 1)
    own_P = torch.arange(1, P + 1, device=start_B.device)
    level_BCP = torch.maximum(level_BC[..., None], own_P)
    weights_BHCP = scales_BHCL.gather(-1, level_BCP[:, None].expand(*q_BHCK.shape[:3], P))
    weighted = (weights_BHCP[..., None] * q_BHCK[..., None, :]).flatten(-2)
    return weighted @ S_BPHKV.transpose(1, 2).flatten(2, 3)


def _merge(S_BPHKV: Tensor, start_B: Tensor, end_B: Tensor) -> Tensor:
    """Return S of the levels that the tokens before `start` have before `end`."""
    P = S_BPHKV.shape[1]
    own_P = torch.arange(1, P + 1, device=start_B.device)
    level_BP = torch.maximum(levels(start_B ^ end_B, P)[:, None], own_P)
    moved_BPP = (level_BP[:, None] == own_P[:, None]).to(S_BPHKV.dtype)
    return (moved_BPP @ S_BPHKV.flatten(2)).view_as(S_BPHKV)


def _write(k_BHCK: Tensor, v_BHCV: Tensor, start_B: Tensor, end_B: Tensor, P: int) -> Tensor:
    """Return the sums of k v of the tokens from `start` on, by the levels that they have before `end`."""
    step_BC = start_B[:, None] + torch.arange(k_BHCK.shape[2], device=start_B.device)
    level_BC = levels(step_BC ^ end_B[:, None], P)
    is_level_BPC = level_BC[:, None] == torch.arange(1, P + 1, device=start_B.device)[:, None]
    k_BPHKC = k_BHCK.mT[:, None] * is_level_BPC[:, :, None, None]
    return k_BPHKC @ v_BHCV[:, None]
