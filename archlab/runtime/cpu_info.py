"""The CPU's name and instruction sets, as Linux reports them."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


def cpu_name() -> str:
    """Return the CPU's model name, or its architecture if the system reports no name."""
    return next(iter(_values("model name")), "") or platform.processor() or platform.machine()


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
