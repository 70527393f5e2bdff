"""The C++ body of the selective scan in float32, as an operation that torch.compile takes whole.

Letters in suffixes: B batch, T time, D channels, N states a channel, S slices of channels.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from archlab.ops.native.library import call_kernel, library

STEPS, WIDEST = 64, 64  # steps a block, bytes of any processor's vector
LANES = WIDEST // 4
PIECES = 16  # of samples and channels, on their way back; each gathers gradients of what all channels read


def ready() -> bool:
    """Tell whether this machine has the body, building it at the first time."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    return library("selective_scan", STEPS=STEPS, WIDEST=WIDEST)


def selective_scan(
    x_BTD: Tensor, step_BTD: Tensor, rate_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(step_t rate) h_{t-1} + step_t x_t in_t; return y_t = h_t · out_t [B, T, D] and the last h.

    All float32. The backward pass keeps one state in 64 and computes the others again.
    """
    y_BTD, last_BDN, _ = _forward(x_BTD, step_BTD, rate_DN, in_BTN, out_BTN, state_BDN)
    return y_BTD, last_BDN


@torch.library.custom_op("archlab::selective_scan", mutates_args=())
def _forward(
    x: Tensor, step: Tensor, rate: Tensor, taken: Tensor, given: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    out = _empty(x, step, rate, taken, given, state)
    call_kernel(_library(), "selective_scan", (x, step, rate, taken, given, state), out, (*x.shape, rate.shape[1]))
    return out


@_forward.register_fake
def _empty(
    x: Tensor, step: Tensor, rate: Tensor, taken: Tensor, given: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (B, T, D), N = x.shape, rate.shape[1]
    starts = x.new_empty(B, -(-D // LANES), -(-T // STEPS), N, LANES)
    return x.new_empty(B, T, D), x.new_empty(B, D, N), starts


@torch.library.custom_op("archlab::selective_scan_back", mutates_args=())
def _backward(
    dy: Tensor, dlast: Tensor, x: Tensor, step: Tensor, rate: Tensor, taken: Tensor, given: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    out = _empty_back(dy, dlast, x, step, rate, taken, given, starts)
    inputs = (dy, dlast, x, step, rate, taken, given, starts)
    call_kernel(_library(), "selective_scan_back", inputs, out, (*x.shape, rate.shape[1], _slices(x)))
    return out


@_backward.register_fake
def _empty_back(
    dy: Tensor, dlast: Tensor, x: Tensor, step: Tensor, rate: Tensor, taken: Tensor, given: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, T, D), N = x.shape, rate.shape[1]
    gathered = (_slices(x), B, T, N)
    shapes = ((B, T, D), (B, T, D), (B, D, N), gathered, gathered, (B, D, N))
    dx, dstep, drate, dtaken, dgiven, dstate = (x.new_empty(shape) for shape in shapes)
    return dx, dstep, drate, dtaken, dgiven, dstate


def _slices(x: Tensor) -> int:
    return max(1, PIECES // x.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    dx, dstep, drate, dtaken, dgiven, dstate = _backward(dy, dlast, *ctx.saved_tensors)
    return dx, dstep, drate.sum(0), dtaken.sum(0), dgiven.sum(0), dstate


_forward.register_autograd(_differentiate, setup_context=_keep)
