"""Kernels with what they are called on: to be run, or to be compiled ahead of time for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """One kernel, its grid, its arguments and its constants.

    traffic: how often a tensor moves between the memory and the chip, where this is not once.
    flops: arithmetic on numbers one by one, as told from that of matrix products; 0 where it is little.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Tensor | int | float]
    constants: Mapping[str, Any]
    num_warps: int = 4
    traffic: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0

    def run(self) -> None:
        """Run the kernel where its tensors lie."""
        self.kernel[self.grid](**self.arguments, **self.constants, num_warps=self.num_warps)

    @property
    def bytes_moved(self) -> float:
        """Return what moves between the memory and the chip."""
        return sum(x.nbytes * self.traffic.get(name, 1) for name, x in self.arguments.items() if isinstance(x, Tensor))


@dataclass(frozen=True)
class Direction:
    """One direction of an operation at one size: its launches in order, and the least bytes that any kernel moves."""

    name: str
    launches: tuple[Launch, ...]
    min_bytes: float


def num_bytes(*tensors: Tensor) -> int:
    """Return the bytes of tensors together."""
    return sum(x.nbytes for x in tensors)
