"""The C++ backend of sLSTM in float32 and float64, a custom operation.

Letters in suffixes: B batch, T time, G the four gates, H heads, W width of a head.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from archlab.ops.native.library import call_kernel, library
from archlab.ops.slstm import define_operation

_KINDS = {torch.float32: "float", torch.float64: "double"}


def is_available() -> bool:
    """Return whether the library can be used here; the first call builds it."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    return library("slstm")


def _forward(gates: Tensor, recurrent: Tensor, state: Sequence[Tensor], exponential: bool) -> tuple[Tensor, ...]:
    """Return outputs, cells, normalizers and peaks of all steps, as `archlab.ops.slstm.forward_steps`."""
    B, T, _, H, W = gates.shape
    steps = tuple(gates.new_empty(B, T, H, W) for _ in range(4))
    weights_HWGW = recurrent.permute(1, 2, 0, 3)
    sizes = (B, T, H, W, exponential)
    call_kernel(_library(), f"slstm_{_KINDS[gates.dtype]}", (gates, weights_HWGW, *state), steps, sizes)
    return steps


def _backward(
    gradients: Sequence[Tensor],
    raw: Tensor,
    recurrent: Tensor,
    steps: Sequence[Tensor],
    before: Sequence[Tensor],
    exponential: bool,
) -> tuple[Tensor, ...]:
    """Return the gradients of all gates and of the initial state, as `archlab.ops.slstm.backward_steps`."""
    B, T, _, H, W = raw.shape
    draw, *dstart = raw.new_empty(raw.shape), *(raw.new_empty(B, H, W) for _ in range(3))
    weights_HGWW = recurrent.permute(1, 0, 3, 2)
    inputs = (*gradients, raw, weights_HGWW, *steps, *before)
    sizes = (B, T, H, W, exponential)
    call_kernel(_library(), f"slstm_back_{_KINDS[raw.dtype]}", inputs, (draw, *dstart), sizes)
    return draw, *dstart


slstm = define_operation("slstm", _forward, _backward)
