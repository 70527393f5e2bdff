"""Whether a device multiplies bfloat16 matrices so much faster that training gains by it."""

from __future__ import annotations

import time
from functools import cache

import torch

GAIN = 1.3
SIZE = 768
ROUNDS = 5


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return float32 or bfloat16; `auto` is bfloat16 where this device multiplies it at least 1.3 times as fast."""
    if precision != "auto":
        return precision
    return "bfloat16" if bfloat16_gain(device.type) >= GAIN else "float32"


@cache
def bfloat16_gain(device_type: str) -> float:
    """Return how many times as fast as float32 a bfloat16 matrix product is here, the best of a few rounds."""
    return _seconds(device_type, torch.float32) / _seconds(device_type, torch.bfloat16)


def _seconds(device_type: str, dtype: torch.dtype) -> float:
    a = torch.ones(SIZE, SIZE, device=device_type, dtype=dtype)
    return min(_timed(a) for _ in range(ROUNDS))


def _timed(a: torch.Tensor) -> float:
    begin = time.perf_counter()
    product = a @ a
    product[0, 0].item()
    return time.perf_counter() - begin
