"""Attention to blocks of keys on a CPU, block by block: no pair is computed that no query reads.

Letters in suffixes: B batch, H heads, G key heads, T queries, J blocks that a query reads, S keys, N blocks of them,
K width of a key, V width of a value, R queries that read one block, P query heads that share keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from types import NotImplementedType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from archlab.ops.dispatch import register_backend
from archlab.ops.dtypes import at_least_float32, product_dtype
from archlab.ops.op_costs import Sizes, attention_backward_flops, attention_flops

# Fewer keys in all than so many times those that are read, or fewer queries, take no longer under a mask.
MIN_SPARSITY, MIN_QUERIES = 2, 256


def block_attention(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSV: Tensor,
    blocks_BGTJ: Tensor,
    step_BT: Tensor,
    block_size: int,
    scale: float,
) -> Tensor | NotImplementedType:
    """Compute the same as `archlab.ops.block_attention` where few pairs are read.

    The backward pass saves inputs, output and one number per query, and computes the weights again.
    """
    (T, J), S = blocks_BGTJ.shape[2:], k_BGSK.shape[2]
    if T < MIN_QUERIES or S / (J * block_size) < MIN_SPARSITY:
        return NotImplemented
    dtype = product_dtype(q_BHTK)
    # [B, T, H, width] is the order in which projections write.
    q, k, v = (x.to(dtype).transpose(1, 2) for x in (q_BHTK, k_BGSK, v_BGSV))
    y_BTHV, _ = _forward(q, k, v, blocks_BGTJ, step_BT, block_size, scale)
    return cast(Tensor, y_BTHV.transpose(1, 2))


class _Visit(NamedTuple):
    """A block's keys, the queries that read it, and which of these keys are later than the first of them."""

    keys: slice
    row_R: Tensor
    is_late_RS: Tensor

    def rows(self, x_TP: Tensor) -> Tensor:
        """Return the tensors of the queries."""
        return x_TP.index_select(0, self.row_R)

    def scores(self, q_RPK: Tensor, k_SK: Tensor) -> Tensor:
        """Return the products [R, P, S] of the queries with their keys in float32 at least."""
        scores_RPS = q_RPK @ k_SK[self.keys].T
        scores_RPS[: len(self.is_late_RS)].masked_fill_(self.is_late_RS[:, None], float("-inf"))
        return scores_RPS


def _visits(blocks_TJ: Tensor, step_T: Tensor, num_keys: int, size: int) -> Iterator[_Visit]:
    """Yield the visits to each block that a query reads; queries in order, so that those inside of it come first."""
    num_blocks = -(-num_keys // size)
    is_read_NT = torch.zeros(num_blocks + 1, len(blocks_TJ), dtype=torch.bool, device=blocks_TJ.device)
    is_read_NT = is_read_NT.scatter_(0, blocks_TJ.T, True)[:num_blocks]
    rows = is_read_NT.nonzero()[:, 1].split(is_read_NT.sum(1).tolist())
    for block, row_R in enumerate(rows):
        if len(row_R):
            keys = slice(block * size, min((block + 1) * size, num_keys))
            step_S = torch.arange(keys.start, keys.stop, device=row_R.device)
            yield _Visit(keys, row_R, step_T[row_R[:size], None] < step_S)


# A block of keys meets all queries that read it in one product, without a copy of the keys. Opaque to torch.compile
# and autograd: the numbers of queries are known when it runs.
@torch.library.custom_op("archlab::block_attention", mutates_args=())
def _forward(
    q_BTHK: Tensor, k_BSGK: Tensor, v_BSGV: Tensor, blocks_BGTJ: Tensor, step_BT: Tensor, block_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    y_BTHV, log_sums_BTH = _empty(q_BTHK, k_BSGK, v_BSGV, blocks_BGTJ, step_BT, block_size, scale)
    for b, g, heads in _groups(q_BTHK, k_BSGK):
        q_TPK, k_SK, v_SV = map(_dense, (q_BTHK[b, :, heads], k_BSGK[b, :, g], v_BSGV[b, :, g]))
        visits = _visits(blocks_BGTJ[b, g], step_BT[b % len(step_BT)], len(k_SK), block_size)
        y_BTHV[b, :, heads], log_sums_BTH[b, :, heads] = _attend(q_TPK * scale, k_SK, v_SV, visits)
    return y_BTHV, log_sums_BTH


@_forward.register_fake
def _empty(
    q_BTHK: Tensor, k_BSGK: Tensor, v_BSGV: Tensor, blocks_BGTJ: Tensor, step_BT: Tensor, block_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    B, T, H, _ = q_BTHK.shape
    log_sums_dtype = torch.promote_types(q_BTHK.dtype, torch.float32)
    return q_BTHK.new_empty(B, T, H, v_BSGV.shape[3]), q_BTHK.new_empty(B, T, H, dtype=log_sums_dtype)


def _groups(q_BTHK: Tensor, k_BSGK: Tensor) -> Iterator[tuple[int, int, slice]]:
    """Yield each sample and key head, with the query heads that share it."""
    B, num_heads, num_groups = q_BTHK.shape[0], q_BTHK.shape[2], k_BSGK.shape[2]
    size = num_heads // num_groups
    for b, g in product(range(B), range(num_groups)):
        yield b, g, slice(g * size, (g + 1) * size)


def _dense(x: Tensor) -> Tensor:
    """Return a copy of which rows are read fast, in float32 at least."""
    return at_least_float32(x).contiguous()


def _attend(q_TPK: Tensor, k_SK: Tensor, v_SV: Tensor, visits: Iterator[_Visit]) -> tuple[Tensor, Tensor]:
    """Return [T, P, V] and the logarithms of the sums of exponentials [T, P], gathered from block to block."""
    T, P, _ = q_TPK.shape
    y_TPV, sum_TP1 = q_TPK.new_zeros(T, P, v_SV.shape[1]), q_TPK.new_zeros(T, P, 1)
    peak_TP1 = torch.full_like(sum_TP1, float("-inf"))  # of the scores so far, by which the sums are divided
    for visit in visits:
        scores_RPS = visit.scores(visit.rows(q_TPK), k_SK)
        before_RP1, sum_RP1, y_RPV = (visit.rows(x) for x in (peak_TP1, sum_TP1, y_TPV))
        peak_RP1 = torch.maximum(before_RP1, scores_RPS.amax(-1, keepdim=True))
        weights_RPS, shrunk_RP1 = scores_RPS.sub_(peak_RP1).exp_(), (before_RP1 - peak_RP1).exp_()
        sum_RP1 = weights_RPS.sum(-1, keepdim=True).addcmul_(sum_RP1, shrunk_RP1)
        y_RPV = (weights_RPS @ v_SV[visit.keys]).addcmul_(y_RPV, shrunk_RP1)
        for so_far, new in ((peak_TP1, peak_RP1), (sum_TP1, sum_RP1), (y_TPV, y_RPV)):
            so_far.index_copy_(0, visit.row_R, new)
    return y_TPV.div_(sum_TP1), peak_TP1.add_(sum_TP1.log_())[..., 0]


# With scores s = scale q kᵀ, weights p = softmax(s) and y = p v, a query's row has
#     dv = pᵀ dy,  dp = dy vᵀ,  ds = p (dp - dy · y),  dq = scale ds k,  dk = scale dsᵀ q.
@torch.library.custom_op("archlab::block_attention_back", mutates_args=())
def _backward(
    dy_BTHV: Tensor,
    q_BTHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    blocks_BGTJ: Tensor,
    step_BT: Tensor,
    y_BTHV: Tensor,
    log_sums_BTH: Tensor,
    block_size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq_BTHK, dk_BSGK, dv_BSGV = (x.new_empty(x.shape) for x in (q_BTHK, k_BSGK, v_BSGV))
    inner_BTH = (at_least_float32(dy_BTHV) * y_BTHV).sum(-1)
    for b, g, heads in _groups(q_BTHK, k_BSGK):
        of_queries = (dy_BTHV[b, :, heads], log_sums_BTH[b, :, heads, None], inner_BTH[b, :, heads, None])
        dy_TPV, log_sums_TP1, inner_TP1, k_SK, v_SV = map(_dense, (*of_queries, k_BSGK[b, :, g], v_BSGV[b, :, g]))
        visits = _visits(blocks_BGTJ[b, g], step_BT[b % len(step_BT)], len(k_SK), block_size)
        dq_TPK, dk_BSGK[b, :, g], dv_BSGV[b, :, g] = _attend_back(
            _dense(q_BTHK[b, :, heads]) * scale, dy_TPV, k_SK, v_SV, log_sums_TP1, inner_TP1, visits
        )
        dq_BTHK[b, :, heads] = dq_TPK.mul_(scale)
    return dq_BTHK, dk_BSGK, dv_BSGV


@_backward.register_fake
def _(dy_BTHV: Tensor, q_BTHK: Tensor, k_BSGK: Tensor, v_BSGV: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q_BTHK.new_empty(q_BTHK.shape), k_BSGK.new_empty(k_BSGK.shape), v_BSGV.new_empty(v_BSGV.shape)


def _attend_back(
    q_TPK: Tensor,
    dy_TPV: Tensor,
    k_SK: Tensor,
    v_SV: Tensor,
    log_sums_TP1: Tensor,
    inner_TP1: Tensor,
    visits: Iterator[_Visit],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of scaled queries, of keys and of values."""
    dq_TPK, dk_SK, dv_SV = torch.zeros_like(q_TPK), torch.zeros_like(k_SK), torch.zeros_like(v_SV)
    for visit in visits:
        q_RPK, dy_RPV, log_sums_RP1, inner_RP1 = map(visit.rows, (q_TPK, dy_TPV, log_sums_TP1, inner_TP1))
        weights_RPS = visit.scores(q_RPK, k_SK).sub_(log_sums_RP1).exp_()
        torch.mm(weights_RPS.flatten(0, 1).T, dy_RPV.flatten(0, 1), out=dv_SV[visit.keys])
        dscores_RPS = (dy_RPV @ v_SV[visit.keys].T).sub_(inner_RP1).mul_(weights_RPS)
        torch.mm(dscores_RPS.flatten(0, 1).T, q_RPK.flatten(0, 1), out=dk_SK[visit.keys])
        dq_RPK = visit.rows(dq_TPK) + dscores_RPS @ k_SK[visit.keys]
        dq_TPK.index_copy_(0, visit.row_R, dq_RPK)
    return dq_TPK, dk_SK, dv_SV


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.block_size, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, dy_BTHV: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(dy_BTHV, *ctx.saved_tensors, ctx.block_size, ctx.scale), None, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _read(q_BTHK: Sizes, k_BSGK: Sizes, v_BSGV: Sizes, blocks_BGTJ: Sizes, block_size: int) -> tuple[Sizes, ...]:
    """Return the sizes of queries, and of as many keys and values as each of them reads."""
    (B, T, H, K), V, num_keys = q_BTHK, v_BSGV[3], blocks_BGTJ[3] * block_size
    return (B, H, T, K), (B, H, num_keys, K), (B, H, num_keys, V)


def _flops(q: Sizes, k: Sizes, v: Sizes, blocks: Sizes, step: Sizes, block_size: int, *_: Any, **__: Any) -> int:
    return attention_flops(*_read(q, k, v, blocks, block_size))


def _backward_flops(dy: Sizes, q: Sizes, k: Sizes, v: Sizes, blocks: Sizes, *others: Any, **__: Any) -> int:
    *_, block_size, _scale = others
    return attention_backward_flops(*_read(q, k, v, blocks, block_size))


register_flop_formula(torch.ops.archlab.block_attention)(_flops)
register_flop_formula(torch.ops.archlab.block_attention_back)(_backward_flops)


def block_backends() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return the backend of CPUs; a GPU, which waits for a number of queries at every block, computes all pairs."""
    return {("block_attention", "cpu"): block_attention}


def register_block_backends() -> None:
    """Register the backend."""
    for (name, device_type), backend in block_backends().items():
        register_backend(name, device_type, backend)
