"""The C++ backend of causal attention in float32, a custom operation.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value.
"""

from __future__ import annotations

import ctypes
from types import NotImplementedType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from archlab.ops.dtypes import product_dtype
from archlab.ops.native.library import call_kernel, library
from archlab.ops.op_costs import Sizes, attention_backward_flops, attention_flops

MAX_PANEL = 32  # columns of a packed panel with the widest vectors, a multiple of those with others


def is_available() -> bool:
    """Return whether the library can be used here; the first call builds it."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    return library("causal_attention")


def causal_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor | NotImplementedType:
    """Return softmax(scale q kᵀ) v over the keys up to each query's own, [B, H, T, V]; for float32 products alone.

    The backward pass saves inputs, output and one number per query, and recomputes the weights.
    """
    if product_dtype(q_BHTK) != torch.float32:
        return NotImplemented
    # [B, T, H, width] is the order in which projections write: these transposes are then contiguous, and free.
    y_BTHV, _ = _forward(*(x.transpose(1, 2) for x in (q_BHTK, k_BHTK, v_BHTV)), scale)
    return y_BTHV.transpose(1, 2)


# Opaque to torch.compile and autograd, neither of which looks into a C function. register_fake gives the outputs'
# shapes for tracing, register_autograd the backward, which is opaque itself.
@torch.library.custom_op("archlab::causal_attention", mutates_args=())
def _forward(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    y_BTHV, log_sums_BHT = _empty(q_BTHK, k_BTHK, v_BTHV, scale)
    # Buffers for packed keys and values. Allocated by torch, they come from its cache at every call but the first.
    B, T, H, V = v_BTHV.shape
    keys = q_BTHK.new_empty(B, H, _round_up(T), q_BTHK.shape[3])
    values = q_BTHK.new_empty(B, H, T, _round_up(V))
    _call("causal_attention", (q_BTHK, k_BTHK, v_BTHV), (y_BTHV, log_sums_BHT, keys, values), scale)
    return y_BTHV, log_sums_BHT


@_forward.register_fake
def _empty(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    B, T, H, _ = q_BTHK.shape
    return v_BTHV.new_empty(v_BTHV.shape), q_BTHK.new_empty(B, H, T)


@torch.library.custom_op("archlab::causal_attention_back", mutates_args=())
def _backward(
    dy_BTHV: Tensor, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, y_BTHV: Tensor, log_sums_BHT: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    out = _empty_back(dy_BTHV, q_BTHK, k_BTHK, v_BTHV, y_BTHV, log_sums_BHT, scale)
    inputs = (q_BTHK, k_BTHK, v_BTHV, dy_BTHV, y_BTHV, log_sums_BHT)
    _call("causal_attention_back", inputs, out, scale)
    return out


@_backward.register_fake
def _empty_back(
    dy_BTHV: Tensor, q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, y_BTHV: Tensor, log_sums_BHT: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q_BTHK, k_BTHK, v_BTHV))
    return dq, dk, dv


def _call(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], scale: float) -> None:
    """Call a function of the library; the inputs begin with q, k and v."""
    call_kernel(_library(), name, inputs, outputs, (*inputs[0].shape, inputs[2].shape[3]), (scale,))


def _round_up(count: int) -> int:
    return -(-count // MAX_PANEL) * MAX_PANEL


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *qkv, ctx.scale = inputs
    ctx.save_for_backward(*qkv, *output)


def _differentiate(ctx: Any, dy_BTHV: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(dy_BTHV, *ctx.saved_tensors, ctx.scale), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _flops(q_BTHK: Sizes, k_BTHK: Sizes, v_BTHV: Sizes, *_: Any, **__: Any) -> int:
    return attention_flops(*map(_heads_first, (q_BTHK, k_BTHK, v_BTHV)))


def _backward_flops(dy_BTHV: Sizes, q_BTHK: Sizes, k_BTHK: Sizes, v_BTHV: Sizes, *_: Any, **__: Any) -> int:
    return attention_backward_flops(*map(_heads_first, (q_BTHK, k_BTHK, v_BTHV)))


def _heads_first(sizes_BTHK: Sizes) -> Sizes:
    B, T, H, K = sizes_BTHK
    return B, H, T, K


register_flop_formula(torch.ops.archlab.causal_attention)(_flops)
register_flop_formula(torch.ops.archlab.causal_attention_back)(_backward_flops)
