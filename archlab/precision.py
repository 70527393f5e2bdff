"""Whether a device multiplies bfloat16 matrices so much faster that training gains by it."""

from __future__ import annotations

from functools import cache

import torch

from archlab.matrix_products import product_seconds, settle_matrix_products

GAIN = 1.3
SIZE = 768


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return float32 or bfloat16; `auto` is bfloat16 where this device multiplies it at least 1.3 times as fast."""
    if precision != "auto":
        return precision
    return "bfloat16" if bfloat16_gain(device.type) >= GAIN else "float32"


@cache
def bfloat16_gain(device_type: str) -> float:
    """Return how many times as fast as float32 a bfloat16 matrix product is here, as this process multiplies."""
    if device_type == "cpu":
        settle_matrix_products()
    return _seconds(device_type, torch.float32) / _seconds(device_type, torch.bfloat16)


def _seconds(device_type: str, dtype: torch.dtype) -> float:
    a = torch.ones(SIZE, SIZE, device=device_type, dtype=dtype)
    return product_seconds(a, a)
