"""The precision of training: bfloat16 autocast on devices whose bfloat16 matmuls are fast enough."""

from __future__ import annotations

import re
from functools import cache, partial

import torch

from archlab.runtime.matmul_precision import ROUNDS, select_matmul_precision
from archlab.runtime.measured_choice import choose_once
from archlab.runtime.timing import best_times

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
        float32_s, bfloat16_s = _matmul_times(device_type, size)
        speedup = float32_s / bfloat16_s
        if speedup < GIVE_UP_RATIO:
            break
    return speedup


def _matmul_times(device_type: str, size: int) -> list[float]:
    """Return the seconds of a matmul in float32 and in bfloat16."""
    ones = [torch.ones(size, size, device=device_type, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    return best_times([partial(torch.matmul, each, each) for each in ones], ones[0].device, ROUNDS)
