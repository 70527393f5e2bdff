"""The Triton backend of TimestepNorm, Megalodon section 3.2 (arXiv:2404.08801).

A program processes all of time for one group of one sample, so x is read once and y written once. B * G programs of
few warps fill a GPU; with fewer programs than multiprocessors, the bandwidth of one multiprocessor is the limit. Groups
of fewer than 8 channels waste bandwidth, as their rows are shorter than a 32-byte sector of memory.

Letters in suffixes: B batch, T time, D channels, G groups.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from archlab.ops.dtypes import at_least_float32
from archlab.ops.triton.launch import Direction, Launch, num_bytes

from ._timestep_norm import backward, forward

TILE, ELEMENTS_PER_WARP = 4096, 512  # elements of x in a tile, and 16 of them per thread, which registers hold
STAGES = 3  # of software pipelining: two tiles are loaded while one is computed


def timestep_norm(
    x_BTD: Tensor,
    scale_D: Tensor,
    bias_D: Tensor,
    count_B: Tensor,
    mean_BG: Tensor,
    var_BG: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [B, T, D] in x's dtype, and the last mean and variance [B, G] in float64.

    The backward pass saves x, and the mean and the inverse deviation of each step and group.
    """
    dtype = at_least_float32(x_BTD[:0]).dtype
    statistics = count_B, mean_BG.double(), var_BG.double()
    y_BTD, last_mean_BG, last_var_BG, *_ = _forward(x_BTD, scale_D.to(dtype), bias_D.to(dtype), *statistics, eps)
    return y_BTD, last_mean_BG, last_var_BG


# Custom operations, as torch.compile and autograd cannot look into the launch of a kernel with computed sizes: the fake
# gives shapes for tracing, the registered backward calls a kernel of its own.
@torch.library.custom_op("archlab::triton_timestep_norm", mutates_args=())
def _forward(
    x: Tensor, scale: Tensor, bias: Tensor, count: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = tuple(a.contiguous() for a in (x, scale, bias, count, mean, var))
    out = _empty(*inputs, eps)
    _forward_launch(inputs, out, eps).run()
    return out


@_forward.register_fake
def _empty(
    x: Tensor, scale: Tensor, bias: Tensor, count: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    last_mean, last_var, near = (scale.new_empty(mean.shape, dtype=a) for a in (mean.dtype, mean.dtype, scale.dtype))
    shift, rate = (scale.new_empty(*mean.shape, x.shape[1]) for _ in range(2))
    return x.new_empty(x.shape), last_mean, last_var, near, shift, rate


@torch.library.custom_op("archlab::triton_timestep_norm_back", mutates_args=())
def _backward(
    dy: Tensor,
    dmean: Tensor,
    dvar: Tensor,
    x: Tensor,
    scale: Tensor,
    count: Tensor,
    mean: Tensor,
    near: Tensor,
    shift: Tensor,
    rate: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = tuple(a.contiguous() for a in (dy, dmean, dvar, x, scale, count, mean, near, shift, rate))
    out = _empty_back(*inputs)
    _backward_launch(inputs, out).run()
    return out


@_backward.register_fake
def _empty_back(
    dy: Tensor,
    dmean: Tensor,
    dvar: Tensor,
    x: Tensor,
    scale: Tensor,
    count: Tensor,
    mean: Tensor,
    near: Tensor,
    shift: Tensor,
    rate: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    by_scale, by_bias = (scale.new_empty(x.shape[0], x.shape[2]) for _ in range(2))
    return x.new_empty(x.shape), by_scale, by_bias, mean.new_empty(mean.shape), mean.new_empty(mean.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, scale, _, count, mean, *_ = inputs
    ctx.save_for_backward(x, scale, count, mean, *output[3:])


def _differentiate(ctx: Any, dy: Tensor, dmean: Tensor, dvar: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    dx, by_scale, by_bias, dmean, dvar = _backward(dy, dmean, dvar, *ctx.saved_tensors)
    return dx, by_scale.sum(0), by_bias.sum(0), None, dmean, dvar, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _forward_launch(inputs: tuple[Tensor, ...], out: tuple[Tensor, ...], eps: float) -> Launch:
    names = ["x", "scale", "bias", "count", "mean", "var", "y", "last_mean", "last_var", "near", "shift", "rate"]
    return _launch(forward, names, (*inputs, *out), {"EPS": eps})


def _backward_launch(inputs: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> Launch:
    names = ["dy", "dlast_mean", "dlast_var", "x", "scale", "count", "mean", "near", "shift", "rate"]
    names += ["dx", "dscale", "dbias", "dmean", "dvar"]
    return _launch(backward, names, (*inputs, *out), {})


def _launch(kernel: Any, names: list[str], tensors: tuple[Tensor, ...], constants: dict[str, Any]) -> Launch:
    arguments = dict(zip(names, tensors, strict=True))
    (B, T, D), G = arguments["x"].shape, arguments["mean"].shape[1]
    channels = triton.next_power_of_2(D // G)
    steps = min(max(TILE // channels, 1), triton.next_power_of_2(T))
    warps = min(max(steps * channels // ELEMENTS_PER_WARP, 1), 8)
    constants |= {"K": D // G, "CHANNELS": channels, "STEPS": steps, "STAGES": STAGES}
    return Launch(kernel, (G, B), arguments | {"T": T, "D": D}, constants, num_warps=warps)


def directions() -> tuple[Direction, ...]:
    """Return both directions at the sizes of a layer of Megalodon 7B, on 4096 steps."""
    B, T, D, G = 1, 4096, 4096, 64
    x, scale = torch.empty(B, T, D, device="meta"), torch.empty(D, device="meta")
    count = torch.empty(B, dtype=torch.int64, device="meta")
    mean = torch.empty(B, G, dtype=torch.float64, device="meta")
    inputs = (x, scale, scale, count, mean, mean)
    out = _empty(*inputs, 1e-5)
    back = (x, mean, mean, x, scale, count, mean, *out[3:])
    forward_launch, gradients = _forward_launch(inputs, out, 1e-5), _empty_back(*back)
    statistics = num_bytes(count, mean, mean)
    return (
        Direction("timestep norm, forward", (forward_launch,), num_bytes(x, x, scale, scale, mean, mean) + statistics),
        Direction(
            "timestep norm, backward",
            (_backward_launch(back, gradients),),
            num_bytes(x, x, x, scale, scale, scale, mean, mean, mean, mean) + statistics,
        ),
    )
