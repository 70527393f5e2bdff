"""Wall-clock time of calls, including the work that they queue on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, up to the end of the kernels that it has launched on its device."""
    begin = time.perf_counter()
    call()
    if device.type == "cuda":  # calls return as soon as their kernels are queued
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def best_time(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the shortest time of several calls: others on the machine only ever add to it, unlike to a mean."""
    return best_times([call], device, repeats)[0]


def best_times(calls: Sequence[Callable[[], object]], device: torch.device, repeats: int) -> list[float]:
    """Return the shortest time of each of several calls, which take turns.

    The speed of a machine that others share changes within tenths of a second: of two calls timed one after the other,
    noise would choose the faster.
    """
    rounds = [[time_call(call, device) for call in calls] for _ in range(repeats)]
    return [min(seconds) for seconds in zip(*rounds, strict=True)]
