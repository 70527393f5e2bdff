"""What the Triton kernels take of a GPU, found by compiling them for it; no GPU is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from archlab.errors import ArchlabError, did_you_mean
from archlab.ops.triton import OPERATIONS, kernels_of

# An H100 (SXM): bytes a second from its memory, and float32 operations a second outside its matrix units.
MEMORY, ARITHMETIC = 3.35e12, 67e12


@dataclass(frozen=True)
class KernelReport:
    """One direction of an operation: bytes, the seconds below which an H100 cannot stay, and what each target needs."""

    name: str
    bytes_moved: float
    min_bytes: float
    memory_s: float
    arithmetic_s: float
    resources: dict[str, list[Any]]

    @property
    def seconds(self) -> float:
        """Return the time that memory and arithmetic allow."""
        return max(self.memory_s, self.arithmetic_s)


def compile_kernels(operation: str | None = None) -> Iterator[KernelReport]:
    """Compile the kernels of one operation, or of all; raise ArchlabError where that cannot be."""
    if operation is not None and operation not in OPERATIONS:
        raise ArchlabError(f"no kernels of {operation!r}{did_you_mean(operation, OPERATIONS)}")
    if find_spec("triton") is None:
        raise ArchlabError("kernels are compiled by triton, which is not installed: pip install triton")
    if os.environ.get("TRITON_INTERPRET"):
        raise ArchlabError("TRITON_INTERPRET is set, so nothing is compiled: unset it")
    for name in OPERATIONS if operation is None else (operation,):
        for one in kernels_of(name).passes():
            yield _report(one)


def _report(one: Any) -> KernelReport:
    from archlab.ops.triton.resources import TARGETS, kernel_resources

    moved = sum(launch.bytes_moved for launch in one.launches)
    needs = {target: [kernel_resources(launch, target) for launch in one.launches] for target in TARGETS}
    arithmetic = sum(launch.flops for launch in one.launches) / ARITHMETIC
    return KernelReport(one.name, moved, one.min_bytes, moved / MEMORY, arithmetic, needs)
