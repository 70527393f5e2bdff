"""The C++ backend of the selective scan in float32, a custom operation.

Letters in suffixes: B batch, T time, D channels, N states a channel, S slices of channels.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from archlab.ops.native.library import call_kernel, library
from archlab.ops.op_costs import Sizes

# Steps of a chunk, and bytes of the widest vector (AVX-512): with them the saved states are allocated here, and the
# library is built.
STEPS, MAX_VECTOR_BYTES = 64, 64
LANES = MAX_VECTOR_BYTES // 4
# Pieces of work of the backward pass, pairs of a sample and a slice of channels: enough for most processors' threads,
# and few, as each has its own gradients of in and out, which all channels share.
NUM_PIECES = 16


def is_available() -> bool:
    """Return whether the library can be used here; the first call builds it."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    return library("selective_scan", STEPS=STEPS, MAX_VECTOR_BYTES=MAX_VECTOR_BYTES)


def selective_scan(
    x_BTD: Tensor, dt_BTD: Tensor, A_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t x_t in_t; return y_t = h_t · out_t [B, T, D] and the last h.

    in and out are Mamba's B and C; all is float32. The backward pass saves one state in 64 and recomputes the others.
    """
    y_BTD, last_BDN, _ = _forward(x_BTD, dt_BTD, A_DN, in_BTN, out_BTN, state_BDN)
    return y_BTD, last_BDN


# Opaque to torch.compile and autograd, neither of which looks into a C function. register_fake gives the outputs'
# shapes for tracing, register_autograd the backward, which is opaque itself.
@torch.library.custom_op("archlab::selective_scan", mutates_args=())
def _forward(
    x: Tensor, dt: Tensor, A: Tensor, in_: Tensor, out_: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    out = _empty(x, dt, A, in_, out_, state)
    call_kernel(_library(), "selective_scan", (x, dt, A, in_, out_, state), out, (*x.shape, A.shape[1]))
    return out


@_forward.register_fake
def _empty(x: Tensor, dt: Tensor, A: Tensor, in_: Tensor, out_: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, D), N = x.shape, A.shape[1]
    starts = x.new_empty(B, -(-D // LANES), -(-T // STEPS), N, LANES)
    return x.new_empty(B, T, D), x.new_empty(B, D, N), starts


@torch.library.custom_op("archlab::selective_scan_back", mutates_args=())
def _backward(
    dy: Tensor, dlast: Tensor, x: Tensor, dt: Tensor, A: Tensor, in_: Tensor, out_: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = _empty_back(dy, dlast, x, dt, A, in_, out_, starts)
    inputs = (dy, dlast, x, dt, A, in_, out_, starts)
    call_kernel(_library(), "selective_scan_back", inputs, out, (*x.shape, A.shape[1], _num_slices(x)))
    return out


@_backward.register_fake
def _empty_back(
    dy: Tensor, dlast: Tensor, x: Tensor, dt: Tensor, A: Tensor, in_: Tensor, out_: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, T, D), N = x.shape, A.shape[1]
    per_slice = (_num_slices(x), B, T, N)
    shapes = ((B, T, D), (B, T, D), (B, D, N), per_slice, per_slice, (B, D, N))
    dx, ddt, dA, din, dout, dstate = (x.new_empty(shape) for shape in shapes)
    return dx, ddt, dA, din, dout, dstate


def _num_slices(x: Tensor) -> int:
    return max(1, NUM_PIECES // x.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    dx, ddt, dA, din, dout, dstate = _backward(dy, dlast, *ctx.saved_tensors)
    return dx, ddt, dA.sum(0), din.sum(0), dout.sum(0), dstate


_forward.register_autograd(_differentiate, setup_context=_setup_context)


# Of a step and state. Forward: exp(dt A), dt x in, the sum of both, and the product with out. Backward: h again, the
# gradient of h and the part of it that passes on, and the sums of the gradients of x, dt, A, in and out.
_FLOPS, _BACKWARD_FLOPS = 7, 19


def _flops(x_BTD: Sizes, dt_BTD: Sizes, A_DN: Sizes, *_: Any, **__: Any) -> int:
    return _FLOPS * prod(x_BTD) * A_DN[1]


def _backward_flops(dy: Sizes, dlast: Sizes, x_BTD: Sizes, dt_BTD: Sizes, A_DN: Sizes, *_: Any, **__: Any) -> int:
    return _BACKWARD_FLOPS * prod(x_BTD) * A_DN[1]


register_flop_formula(torch.ops.archlab.selective_scan)(_flops)
register_flop_formula(torch.ops.archlab.selective_scan_back)(_backward_flops)
