"""Whether a device multiplies bfloat16 matrices so much faster that training gains by it."""

from __future__ import annotations

from functools import cache

import torch

from archlab.runtime.matmul_precision import select_matmul_precision, time_matmul

MIN_SPEEDUP = 1.3
# A processor without bfloat16 takes a second for the large product: the small one then says enough.
SIZES, GIVE_UP_RATIO = (128, 768), 0.2


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return float32 or bfloat16; `auto` is bfloat16 where this device multiplies it at least 1.3 times as fast."""
    if precision != "auto":
        return precision
    return "bfloat16" if bfloat16_speedup(device.type) >= MIN_SPEEDUP else "float32"


@cache
def bfloat16_speedup(device_type: str) -> float:
    """Return how many times as fast as float32 a bfloat16 matrix product is here, as this process multiplies."""
    if device_type == "cpu":
        select_matmul_precision()
    for size in SIZES:
        gain = _seconds(device_type, torch.float32, size) / _seconds(device_type, torch.bfloat16, size)
        if gain < GIVE_UP_RATIO:
            break
    return gain


def _seconds(device_type: str, dtype: torch.dtype, size: int) -> float:
    a = torch.ones(size, size, device=device_type, dtype=dtype)
    return time_matmul(a, a)
