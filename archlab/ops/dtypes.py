"""Precision: statistics and recurrences are computed in at least float32, whatever autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return half-precision numbers as float32, and others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Compute in the tensors' own precision, whatever autocast says.

    Where it is off it is not turned off once more: compiled code with such a turn in it is made anew in every process.
    """
    return torch.autocast(x.device.type, enabled=False) if _is_autocast(x) else nullcontext()


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the type that a product with these numbers is made in: autocast's, where it is on."""
    return torch.get_autocast_dtype(x.device.type) if _is_autocast(x) else x.dtype


def _is_autocast(x: Tensor) -> bool:
    """Tell whether autocast is on for the device of these numbers; the meta device has none."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
