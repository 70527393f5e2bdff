"""Which of a CPU's ways to multiply float32 matrices is taken: the fastest that does not round its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from archlab.runtime.process import tuning_enabled
from archlab.runtime.timing import best_time

DEFAULT = "none"
# On processors where torch's own way is slow, "bf16" sends products to oneDNN, which need not round for it.
CANDIDATES = ("bf16", "tf32")
LARGEST_ERROR = 1e-6
MIN_SPEEDUP = 1.1
SIZE = 512
ROUNDS = 5


@dataclass(frozen=True)
class MatmulMode:
    """One setting: how far its products are from exact ones, relative to their size, and how fast they are."""

    name: str
    error: float
    flops_per_s: float


@cache
def select_matmul_precision() -> str:
    """Set the fastest exact way for this process, unless tuning is off; return its name."""
    if not tuning_enabled() or not torch.backends.mkldnn.is_available():
        return DEFAULT
    chosen = fastest_exact_mode(measure_modes())
    _setting().fp32_precision = chosen
    return chosen


def fastest_exact_mode(measured: tuple[MatmulMode, ...]) -> str:
    """Return the fastest way that is exact to float32, the stock one (the first) unless another gains by it."""
    stock, *others = measured
    exact = [way for way in others if way.error <= LARGEST_ERROR and way.flops_per_s >= MIN_SPEEDUP * stock.flops_per_s]
    return max(exact, key=lambda way: way.flops_per_s).name if exact else stock.name


@cache
def measure_modes() -> tuple[MatmulMode, ...]:
    """Measure every way, for a few milliseconds."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=generator, device="cpu") for _ in range(2))
    exact = a.double() @ b.double()
    return tuple(_measure(name, a, b, exact) for name in (DEFAULT, *CANDIDATES))


def _measure(name: str, a: torch.Tensor, b: torch.Tensor, exact: torch.Tensor) -> MatmulMode:
    with use_mode(name):
        error = float(((a @ b).double() - exact).norm() / exact.norm())
        return MatmulMode(name, error, 2 * SIZE**3 / time_matmul(a, b))


def time_matmul(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the seconds of a product on the matrices' device, the best of a few rounds."""
    return best_time(lambda: a @ b, a.device, ROUNDS)


@contextmanager
def use_mode(name: str) -> Iterator[None]:
    """Multiply in one of the ways for a while."""
    before = _setting().fp32_precision
    _setting().fp32_precision = name
    try:
        yield
    finally:
        _setting().fp32_precision = before


def _setting() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
