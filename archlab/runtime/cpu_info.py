"""The CPU's name, cores and instruction sets, as Linux reports them."""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from pathlib import Path

from archlab.runtime.cgroups import cpu_limit


def cpu_name() -> str:
    """Return the CPU's model name, or its architecture if the system reports no name."""
    return next(iter(_values("model name")), "") or platform.processor() or platform.machine()


def num_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and by its control group's quota."""
    quota = cpu_limit()
    return scheduled_cores() if quota is None else min(scheduled_cores(), math.ceil(quota))


def scheduled_cores() -> int:
    """Return the number of cores that this process may run on, for whatever share of their time."""
    # Affinity and not cpu_count: a container or a scheduler may allow fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags, none if the system does not report them."""
    # Linux has "flags" on x86 and "Features" on Arm.
    return frozenset(flag for value in _values("flags", "Features") for flag in value.split())


@cache
def _values(*names: str) -> tuple[str, ...]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith(names))
