"""Resources and roofline of the Triton kernels, found by compiling them; no GPU is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from archlab.errors import ArchlabError, did_you_mean
from archlab.ops.triton import OPERATIONS, kernels_of

# An H100 (SXM), by its data sheet: bytes per second of memory, float32 operations per second outside tensor cores.
MEMORY_BANDWIDTH, PEAK_FLOPS = 3.35e12, 67e12


@dataclass(frozen=True)
class KernelReport:
    """One direction of an operation: bytes, the least seconds on an H100, and the resources that each target needs."""

    name: str
    bytes_moved: float
    min_bytes: float
    memory_s: float
    arithmetic_s: float
    resources: dict[str, list[Any]]

    @property
    def seconds(self) -> float:
        """Return the roofline: the longer of the times for memory and for arithmetic."""
        return max(self.memory_s, self.arithmetic_s)


def compile_kernels(operation: str | None = None) -> Iterator[KernelReport]:
    """Compile the kernels of one operation, or of all; raise ArchlabError where that is impossible."""
    if operation is not None and operation not in OPERATIONS:
        raise ArchlabError(f"no kernels of {operation!r}{did_you_mean(operation, OPERATIONS)}")
    if find_spec("triton") is None:
        raise ArchlabError("kernels are compiled by triton, which is not installed: pip install triton")
    if os.environ.get("TRITON_INTERPRET"):
        raise ArchlabError("TRITON_INTERPRET is set, so nothing is compiled: unset it")
    for name in OPERATIONS if operation is None else (operation,):
        for direction in kernels_of(name).directions():
            yield _report(direction)


def _report(direction: Any) -> KernelReport:
    # Imported here, as this module is also imported where triton is not installed.
    from archlab.ops.triton.resources import TARGETS, kernel_resources

    bytes_moved = sum(launch.bytes_moved for launch in direction.launches)
    resources = {target: [kernel_resources(launch, target) for launch in direction.launches] for target in TARGETS}
    arithmetic = sum(launch.flops for launch in direction.launches) / PEAK_FLOPS
    memory = bytes_moved / MEMORY_BANDWIDTH
    return KernelReport(direction.name, bytes_moved, direction.min_bytes, memory, arithmetic, resources)
