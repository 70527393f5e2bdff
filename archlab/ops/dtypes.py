"""Dtypes of computations: statistics and recurrences are computed in at least float32, also under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Convert a half-precision tensor to float32, and return any other unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Disable autocast on the tensor's device, so that tensors are computed with in their own dtype."""
    # Where it is off already, no context is entered: AOTAutograd (torch 2.13) by default does not cache graphs that
    # change autocast, so that every process would compile them again.
    return torch.autocast(x.device.type, enabled=False) if _is_autocast(x) else nullcontext()


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of a matrix product with this tensor: autocast's where it is enabled, else its own."""
    return torch.get_autocast_dtype(x.device.type) if _is_autocast(x) else x.dtype


def _is_autocast(x: Tensor) -> bool:
    """Return whether autocast is enabled on the tensor's device; torch raises for the meta device, which has none."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
