"""Causal softmax attention by torch's fused kernels for GPUs, whose gradients are the same at every run.

Letters in suffixes: B batch, H heads, T time, K width of a key, V width of a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from archlab.ops.op_costs import Sizes, attention_backward_flops, attention_flops
from archlab.runtime.private_apis import gpu_attention_kernels

# The widest head of FlashAttention, which is for half precision and for keys and values of one width, and the widest of
# the memory-efficient kernel for others that keeps a block's sums in registers (torch 2.11).
MAX_FLASH_WIDTH, MAX_EFFICIENT_WIDTH = 256, 128
ALIGNMENT = 16  # bytes, by which both kernels read a head
LOG_SUMS_ALIGNMENT = 32  # of the memory-efficient kernel's times


def fits_a_kernel(key: int, value: int, dtype: torch.dtype) -> bool:
    """Return whether torch has a fast kernel for heads of these widths."""
    if dtype == torch.float64 or any(width * dtype.itemsize % ALIGNMENT for width in (key, value)):
        return False
    return _fits_flash(key, value, dtype) or max(key, value) <= MAX_EFFICIENT_WIDTH


def fused_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor:
    """Return softmax(scale q kᵀ) v over the keys up to each query's own, [B, H, T, V]; all on one GPU and of one dtype.

    In torch's mode of deterministic algorithms, gradients are summed in one order, also where that mode only warns.
    """
    return _forward(q_BHTK, k_BHTK, v_BHTV, scale)[0]


def _fits_flash(key: int, value: int, dtype: torch.dtype) -> bool:
    return dtype in (torch.float16, torch.bfloat16) and key == value <= MAX_FLASH_WIDTH


def _is_flash(q_BHTK: Tensor, v_BHTV: Tensor) -> bool:
    return _fits_flash(q_BHTK.shape[-1], v_BHTV.shape[-1], q_BHTK.dtype)


# `scaled_dot_product_attention` calls the same kernels, but its backward pass reads torch's mode while it runs, long
# after the forward pass has returned: an operation of our own can set the mode then, in eager and in compiled models.
@torch.library.custom_op("archlab::fused_attention", mutates_args=())
def _forward(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    flash, efficient = gpu_attention_kernels().forward
    if _is_flash(q_BHTK, v_BHTV):
        y_BHTV, log_sums_BHT, *_ = flash(q_BHTK, k_BHTK, v_BHTV, 0.0, True, scale=scale)
    else:
        y_BHTV, log_sums_BHT, *_ = efficient(q_BHTK, k_BHTK, v_BHTV, None, True, 0.0, True, scale=scale)
    return _time_first(y_BHTV), log_sums_BHT.contiguous()


@_forward.register_fake
def _(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    B, H, T, _ = q_BHTK.shape
    times = T if _is_flash(q_BHTK, v_BHTV) else -(-T // LOG_SUMS_ALIGNMENT) * LOG_SUMS_ALIGNMENT
    return _empty_time_first(v_BHTV), q_BHTK.new_empty((B, H, times), dtype=torch.float32)


@torch.library.custom_op("archlab::fused_attention_back", mutates_args=())
def _backward(
    dy_BHTV: Tensor,
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    y_BHTV: Tensor,
    log_sums_BHT: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    flash, efficient = gpu_attention_kernels().backward
    T, saved = q_BHTK.shape[2], (_time_first(dy_BHTV), q_BHTK, k_BHTK, v_BHTV)
    no_seed = torch.empty(0, dtype=torch.int64, device=q_BHTK.device)  # nothing is dropped
    with _mode_that_kernels_heed():
        if _is_flash(q_BHTK, v_BHTV):
            lengths = (None, None, T, T)  # one for all
            found = flash(*saved, y_BHTV, log_sums_BHT, *lengths, 0.0, True, no_seed, no_seed, scale=scale)
        else:
            wanted = [True, True, True, False]  # gradients: there is no bias
            found = efficient(*saved, None, y_BHTV, log_sums_BHT, no_seed, no_seed, 0.0, wanted, True, scale=scale)
    dq_BHTK, dk_BHTK, dv_BHTV = (_time_first(gradient) for gradient in found[:3])
    return dq_BHTK, dk_BHTK, dv_BHTV


@_backward.register_fake
def _(
    dy_BHTV: Tensor,
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTV: Tensor,
    y_BHTV: Tensor,
    log_sums_BHT: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_time_first(q_BHTK), _empty_time_first(k_BHTK), _empty_time_first(v_BHTV)


@contextmanager
def _mode_that_kernels_heed() -> Iterator[None]:
    """Have deterministic algorithms asked for without `warn_only`, under which these kernels warn and do as before."""
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(enabled)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _time_first(x_BHTV: Tensor) -> Tensor:
    """Return the same with heads side by side in memory, as the kernels write it where their inputs are so."""
    return x_BHTV.transpose(1, 2).contiguous().transpose(1, 2)


def _empty_time_first(x_BHTV: Tensor) -> Tensor:
    return x_BHTV.new_empty(x_BHTV.transpose(1, 2).shape).transpose(1, 2)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *qkv, ctx.scale = inputs
    ctx.save_for_backward(*qkv, *output)


def _differentiate(ctx: Any, dy_BHTV: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward(dy_BHTV, *ctx.saved_tensors, ctx.scale), None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _flops(q_BHTK: Sizes, k_BHTK: Sizes, v_BHTV: Sizes, *_: Any, **__: Any) -> int:
    return attention_flops(q_BHTK, k_BHTK, v_BHTV)


def _backward_flops(dy_BHTV: Sizes, q_BHTK: Sizes, k_BHTK: Sizes, v_BHTV: Sizes, *_: Any, **__: Any) -> int:
    return attention_backward_flops(q_BHTK, k_BHTK, v_BHTV)


register_flop_formula(torch.ops.archlab.fused_attention)(_flops)
register_flop_formula(torch.ops.archlab.fused_attention_back)(_backward_flops)
