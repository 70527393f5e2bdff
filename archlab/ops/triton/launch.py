"""Kernel launches as data: to be run, or to be compiled ahead of time for a GPU that is not present."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Launch:
    """One kernel, its grid, its arguments and its constants.

    traffic: how many times a tensor is transferred between memory and chip, where this is not once.
    flops: floating-point operations outside matrix products; 0 where they are negligible.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Tensor | int | float]
    constants: Mapping[str, Any]
    num_warps: int = 4
    traffic: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0

    def run(self) -> None:
        """Run the kernel on the device of its tensors."""
        self.kernel[self.grid](**self.arguments, **self.constants, num_warps=self.num_warps)

    @property
    def bytes_moved(self) -> float:
        """Return the bytes transferred between memory and chip."""
        return sum(x.nbytes * self.traffic.get(name, 1) for name, x in self.arguments.items() if isinstance(x, Tensor))


@dataclass(frozen=True)
class Direction:
    """One direction of an operation at one size: its launches in order, and the fewest bytes that it must transfer."""

    name: str
    launches: tuple[Launch, ...]
    min_bytes: float


def num_bytes(*tensors: Tensor) -> int:
    """Return the total bytes of tensors."""
    return sum(x.nbytes for x in tensors)
