"""Causal softmax attention on a GPU: torch's kernels where heads fit them, else blocks of plain products.

Letters in suffixes: B batch, H heads, T time, K width of a key, V width of a value.
"""

from __future__ import annotations

from types import NotImplementedType

import torch
from torch import Tensor

from archlab.ops.blocked_attention import blocked_attention
from archlab.ops.dispatch import register_backend
from archlab.ops.dtypes import product_dtype

# The widest head of FlashAttention, which is for half precision and for keys and values of one width, and the widest of
# the memory-efficient kernel for others that keeps a block's sums in registers (torch 2.11).
MAX_FLASH_WIDTH, MAX_EFFICIENT_WIDTH = 256, 128


def causal_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor | NotImplementedType:
    """Return softmax(scale q kᵀ) v over the keys up to each query's own, [B, H, T, V], in autocast's dtype if it is on.

    The backend of CUDA devices, NVIDIA's and AMD's, for heads that torch's fast kernels do not take: in Megalodon,
    whose values are eight times as wide as its keys, the one that it falls back to was two thirds of an update
    (docs/performance.md).
    """
    dtype = product_dtype(q_BHTK)
    if _fits_a_kernel(q_BHTK.shape[-1], v_BHTV.shape[-1], dtype):
        return NotImplemented
    return blocked_attention(q_BHTK.to(dtype), k_BHTK.to(dtype), v_BHTV.to(dtype), scale)


def register_gpu_attention() -> None:
    """Register the backend, which needs no kernel of ours."""
    register_backend("causal_attention", "cuda", causal_attention)


def _fits_a_kernel(key: int, value: int, dtype: torch.dtype) -> bool:
    fits_flash = dtype in (torch.float16, torch.bfloat16) and key == value <= MAX_FLASH_WIDTH
    return fits_flash or (dtype != torch.float64 and max(key, value) <= MAX_EFFICIENT_WIDTH)
