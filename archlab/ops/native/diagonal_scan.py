"""The C++ backend of the diagonal scan in float32 and float64, a custom operation.

Letters in suffixes: B batch, T time, D channels, N states a channel, P parts of a number.
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

# Steps of a chunk, states that are computed together, and bytes of the widest vector (AVX-512): with them the saved
# states are allocated here, and the library is built.
STEPS, STATES, MAX_VECTOR_BYTES = 64, 4, 64
_KINDS = {torch.float32: "float32", torch.float64: "float64"}


def is_available() -> bool:
    """Return whether the library can be used here; the first call builds it."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    return library("diagonal_scan", STEPS=STEPS, STATES=STATES, MAX_VECTOR_BYTES=MAX_VECTOR_BYTES)


def diagonal_scan(
    u_BTD: Tensor, near_DN: Tensor, rest_DNP: Tensor, weight_DNP: Tensor, state_BDNP: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run h_t = (near + rest) h_{t-1} + u_t; return y_t = Re(sum over n of w_n h_{t,n}) [B, T, D] and the last h.

    All of one dtype, float32 or float64; `near` has no gradient. The backward pass saves one state in 64 and
    recomputes the others.
    """
    state = u_BTD.new_zeros(u_BTD.shape[0], *rest_DNP.shape) if state_BDNP is None else state_BDNP
    y_BTD, last_BDNP, _ = _forward(u_BTD, near_DN, rest_DNP, weight_DNP, state)
    return y_BTD, last_BDNP


# Opaque to torch.compile and autograd, neither of which looks into a C function. register_fake gives the outputs'
# shapes for tracing, register_autograd the backward, which is opaque itself.
@torch.library.custom_op("archlab::diagonal_scan", mutates_args=())
def _forward(u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = _empty(u, near, rest, weight, state)
    _call("diagonal_scan", (u, near, rest, weight, state), out, u, rest)
    return out


@_forward.register_fake
def _empty(u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, D), (N, P) = u.shape, rest.shape[1:]
    lanes = MAX_VECTOR_BYTES // u.element_size()
    shape = (B, -(-D // lanes), -(-T // STEPS), -(-N // STATES) * STATES, P, lanes)
    return u.new_empty(B, T, D), u.new_empty(B, D, N, P), u.new_empty(shape)


@torch.library.custom_op("archlab::diagonal_scan_back", mutates_args=())
def _backward(
    dy: Tensor, dlast: Tensor, u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out = _empty_back(dy, dlast, u, near, rest, weight, starts)
    _call("diagonal_scan_back", (dy, dlast, u, near, rest, weight, starts), out, u, rest)
    return out


@_backward.register_fake
def _empty_back(
    dy: Tensor, dlast: Tensor, u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (B, T, D), (N, P) = u.shape, rest.shape[1:]
    states = (B, D, N, P)
    return u.new_empty(B, T, D), u.new_empty(states), u.new_empty(states), u.new_empty(states)


def _call(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], u: Tensor, rest: Tensor) -> None:
    kind = f"{_KINDS[u.dtype]}_{('real', 'complex')[rest.shape[-1] - 1]}"
    call_kernel(_library(), f"{name}_{kind}", inputs, outputs, (*u.shape, rest.shape[1]))


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:4], output[2])


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    # Threads compute a sample each, and so a gradient of the parameters each.
    du, drest, dweight, dstate = _backward(dy, dlast, *ctx.saved_tensors)
    return du, None, drest.sum(0), dweight.sum(0), dstate


_forward.register_autograd(_differentiate, setup_context=_setup_context)


# Of a step and state, real and complex. Forward: h = near h + rest h + u, and the sum of Re(w h). Backward: h again,
# the same recurrence of its gradient from the end, and the sums of the gradients of u, rest and w.
_FLOPS, _BACKWARD_FLOPS = (6, 15), (14, 37)


def _flops(u_BTD: Sizes, near_DN: Sizes, rest_DNP: Sizes, *_: Any, **__: Any) -> int:
    return _FLOPS[rest_DNP[2] - 1] * prod(u_BTD) * near_DN[1]


def _backward_flops(dy: Sizes, dlast: Sizes, u_BTD: Sizes, near_DN: Sizes, rest_DNP: Sizes, *_: Any, **__: Any) -> int:
    return _BACKWARD_FLOPS[rest_DNP[2] - 1] * prod(u_BTD) * near_DN[1]


register_flop_formula(torch.ops.archlab.diagonal_scan)(_flops)
register_flop_formula(torch.ops.archlab.diagonal_scan_back)(_backward_flops)
