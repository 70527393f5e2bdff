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
from archlab.ops.fused_attention import fits_a_kernel, fused_attention


def causal_attention(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTV: Tensor, scale: float) -> Tensor | NotImplementedType:
    """Return softmax(scale q kᵀ) v over the keys up to each query's own, [B, H, T, V], in autocast's dtype if it is on.

    The backend of CUDA devices, NVIDIA's and AMD's, for heads that torch's fast kernels do not take, and for all in its
    mode of deterministic algorithms, in which training is: torch's own choice does not sum in one order, and is up to
    three times as fast. In Megalodon, whose values are eight times as wide as its keys, the kernel that torch falls
    back to was two thirds of an update (docs/performance.md).
    """
    dtype = product_dtype(q_BHTK)
    if not fits_a_kernel(q_BHTK.shape[-1], v_BHTV.shape[-1], dtype):
        attend = blocked_attention
    elif torch.are_deterministic_algorithms_enabled():
        attend = fused_attention
    else:
        return NotImplemented
    return attend(q_BHTK.to(dtype), k_BHTK.to(dtype), v_BHTV.to(dtype), scale)


def register_gpu_attention() -> None:
    """Register the backend, which needs no kernel of archlab's own."""
    register_backend("causal_attention", "cuda", causal_attention)
