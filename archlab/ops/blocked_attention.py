"""Causal softmax attention by plain matrix products, one block of its weights at a time: for heads of any width.

Letters in suffixes: N batch and heads, T time, K width of a key, V width of a value, R queries of a block, S keys of a
block, L keys up to a block's end, or queries from its start on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from archlab.ops.dtypes import at_least_float32
from archlab.ops.op_costs import Sizes, attention_backward_flops, attention_flops

NUM_BLOCKS = 4  # of the 16 pairs of them 10 are computed
# A block's weights take at most 64 MiB in float32, unless 128 rows need more: fewer would make thin, slow products.
MAX_BLOCK_WEIGHTS, MIN_BLOCK_ROWS = 2**24, 128


def blocked_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q kᵀ) v over the keys up to each query's own, [B, H, T, V]; all of one dtype.

    Weights are float32 at least, and are multiplied in the inputs' dtype. The backward pass saves inputs, output and
    one number per query, and recomputes the weights: in Megalodon, whose values are eight times as wide as its keys,
    that is a twentieth of its work.
    """
    y_NTV, _ = _forward(*(x.flatten(0, 1) for x in (q_BHTK, k_BHTK, v_BHTV)), scale)
    return y_NTV.unflatten(0, q_BHTK.shape[:2])


# Opaque to torch.compile and autograd: the former would unroll the loop over blocks into one graph, where the weights
# of many may live.
@torch.library.custom_op("archlab::blocked_attention", mutates_args=())
def _forward(q_NTK: Tensor, k_NTK: Tensor, v_NTV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    y_NTV, log_sums_NT = _empty(q_NTK, k_NTK, v_NTV, scale)
    for start, end in _blocks(q_NTK):
        scores_NRL = _scores(q_NTK[:, start:end], k_NTK[:, :end], scale)
        log_sums_NT[:, start:end] = scores_NRL.logsumexp(-1)
        weights_NRL = scores_NRL.softmax(-1).to(v_NTV.dtype)
        y_NTV[:, start:end] = weights_NRL @ v_NTV[:, :end]
    return y_NTV, log_sums_NT


@_forward.register_fake
def _empty(q_NTK: Tensor, k_NTK: Tensor, v_NTV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    log_sums_dtype = torch.promote_types(q_NTK.dtype, torch.float32)
    return v_NTV.new_empty(v_NTV.shape), q_NTK.new_empty(q_NTK.shape[:2], dtype=log_sums_dtype)


# With scores s = scale q kᵀ, weights p = softmax(s) and y = p v, a query's row has
#     dv = pᵀ dy,  dp = dy vᵀ,  ds = p (dp - sum_j p_j dp_j),  dq = scale ds k,  dk = scale dsᵀ q,
# where the sum over keys j is dy · y. A block here is one of keys, with all queries that see it: then dk and dv, the
# wider of the gradients, are whole after one product each, and dq alone is a sum over blocks.
@torch.library.custom_op("archlab::blocked_attention_back", mutates_args=())
def _backward(
    dy_NTV: Tensor, q_NTK: Tensor, k_NTK: Tensor, v_NTV: Tensor, y_NTV: Tensor, log_sums_NT: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    dq_NTK, dk_NTK, dv_NTV = at_least_float32(torch.zeros_like(q_NTK)), torch.empty_like(k_NTK), torch.empty_like(v_NTV)
    inner_NT1 = (at_least_float32(dy_NTV) * y_NTV).sum(-1, keepdim=True)
    for start, end in _blocks(q_NTK):
        q_NLK, dy_NLV, k_NSK = q_NTK[:, start:], dy_NTV[:, start:], k_NTK[:, start:end]
        weights_NLS = _scores(q_NLK, k_NSK, scale).sub_(log_sums_NT[:, start:, None]).exp_()
        dv_NTV[:, start:end] = weights_NLS.to(dy_NTV.dtype).mT @ dy_NLV
        dscores_NLS = _product(dy_NLV, v_NTV[:, start:end].mT).sub_(inner_NT1[:, start:]).mul_(weights_NLS).mul_(scale)
        dscores_NLS = dscores_NLS.to(q_NTK.dtype)
        dk_NTK[:, start:end] = dscores_NLS.mT @ q_NLK
        dq_NTK[:, start:] += dscores_NLS @ k_NSK
    return dq_NTK.to(q_NTK.dtype), dk_NTK, dv_NTV


@_backward.register_fake
def _(
    dy_NTV: Tensor, q_NTK: Tensor, k_NTK: Tensor, v_NTV: Tensor, y_NTV: Tensor, log_sums_NT: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q_NTK), torch.empty_like(k_NTK), torch.empty_like(v_NTV)


def _blocks(q_NTK: Tensor) -> list[tuple[int, int]]:
    """Return where blocks of time start and end."""
    N, T, _ = q_NTK.shape
    rows = min(-(-T // NUM_BLOCKS), max(MIN_BLOCK_ROWS, MAX_BLOCK_WEIGHTS // max(1, N * T)))
    return [(start, min(start + rows, T)) for start in range(0, T, max(1, rows))]


def _scores(q_NRK: Tensor, k_NSK: Tensor, scale: float) -> Tensor:
    """Return scaled products of queries and keys that end, or that begin, with the same step; masked where later."""
    R, S = q_NRK.shape[1], k_NSK.shape[1]
    scores_NRS = _product(q_NRK, k_NSK.mT).mul_(scale)
    # Of a block of queries the last keys are their own, of one of keys the first queries are.
    own_NBB = scores_NRS[:, :, S - R :] if R <= S else scores_NRS[:, :S]
    size = own_NBB.shape[-1]
    own_NBB.masked_fill_(torch.ones(size, size, dtype=torch.bool, device=own_NBB.device).triu_(1), float("-inf"))
    return scores_NRS


def _product(a_NRK: Tensor, b_NKS: Tensor) -> Tensor:
    """Return a product that is summed and kept in at least float32."""
    if a_NRK.is_cuda and a_NRK.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(a_NRK, b_NKS, out_dtype=torch.float32)
    return at_least_float32(a_NRK) @ at_least_float32(b_NKS)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *qkv, ctx.scale = inputs
    ctx.save_for_backward(*qkv, *output)


def _differentiate(ctx: Any, dy_NTV: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(dy_NTV, *ctx.saved_tensors, ctx.scale), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _flops(q_NTK: Sizes, k_NTK: Sizes, v_NTV: Sizes, *_: Any, **__: Any) -> int:
    return attention_flops(q_NTK, k_NTK, v_NTV)


def _backward_flops(dy_NTV: Sizes, q_NTK: Sizes, k_NTK: Sizes, v_NTV: Sizes, *_: Any, **__: Any) -> int:
    return attention_backward_flops(q_NTK, k_NTK, v_NTV)


register_flop_formula(torch.ops.archlab.blocked_attention)(_flops)
register_flop_formula(torch.ops.archlab.blocked_attention_back)(_backward_flops)
