"""What the operating system says of the processor."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


def cpu_name() -> str:
    """Return the processor's name, or its family where nothing more is told."""
    return next(iter(_values("model name")), "") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Return the words for what the processor can do, none where they are not told."""
    return frozenset(word for value in _values("flags", "Features") for word in value.split())


@cache
def _values(*names: str) -> tuple[str, ...]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith(names))
