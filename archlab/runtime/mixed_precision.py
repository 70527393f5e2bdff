"""The precision of training: bfloat16 autocast on devices whose bfloat16 matmuls are fast enough."""

from __future__ import annotations

import re
from functools import cache

import torch

from archlab.runtime.matmul_precision import select_matmul_precision, time_matmul
from archlab.runtime.measured_choice import choose_once

# Casts and the operations that autocast keeps in float32 cost more than a smaller speedup of the matmuls gains.
MIN_SPEEDUP = 1.3
# A CPU without bfloat16 instructions takes a second for the large matmul: if the small one is 5 times as slow as
# in float32, the large one is skipped.
SIZES, GIVE_UP_RATIO = (128, 768), 0.2


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return float32 or bfloat16; `auto` is bfloat16 if its matmuls are at least 1.3 times as fast on this device.

    It is measured once on a machine.
    """
    if precision != "auto":
        return precision
    name = "cpu" if device.type == "cpu" else re.sub(r"\W+", "-", torch.cuda.get_device_name(device))
    return choose_once(f"precision-{name}", ("float32", "bfloat16"), lambda: _faster(device.type))


def _faster(device_type: str) -> str:
    return "bfloat16" if bfloat16_speedup(device_type) >= MIN_SPEEDUP else "float32"


@cache
def bfloat16_speedup(device_type: str) -> float:
    """Return the speedup of a bfloat16 matmul over a float32 one in the matmul mode of this process."""
    if device_type == "cpu":
        select_matmul_precision()
    for size in SIZES:
        speedup = _matmul_seconds(device_type, torch.float32, size) / _matmul_seconds(device_type, torch.bfloat16, size)
        if speedup < GIVE_UP_RATIO:
            break
    return speedup


def _matmul_seconds(device_type: str, dtype: torch.dtype, size: int) -> float:
    a = torch.ones(size, size, device=device_type, dtype=dtype)
    return time_matmul(a, a)
