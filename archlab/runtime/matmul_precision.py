"""Float32 matmul modes of the CPU: the fastest one that does not round its inputs is selected.

`ARCHLAB_MATMUL_MODE=none` (or `bf16`, `tf32`) selects a mode without measuring, so that several machines round alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from archlab.errors import ConfigError, did_you_mean
from archlab.runtime.measured_choice import choose_once
from archlab.runtime.process import tuning_enabled
from archlab.runtime.timing import best_times

MODE = "ARCHLAB_MATMUL_MODE"
DEFAULT = "none"
# On CPUs where torch's default BLAS is slow, "bf16" dispatches matmuls to oneDNN, which is allowed to round to
# bfloat16 and on many CPUs does not. Whether it does is measured.
CANDIDATES = ("bf16", "tf32")
# A float32 product of this size is about 1e-7 off in relative norm, one of rounded inputs 3e-4 (tf32) or 2e-3 (bf16).
LARGEST_ERROR = 1e-6
MIN_SPEEDUP = 1.2  # below it, noise would choose; a mode that is worth it gains half or more
SIZE = 512
ROUNDS = 8


@dataclass(frozen=True)
class MatmulMode:
    """A matmul mode with its measured relative error (Frobenius norm) and throughput."""

    name: str
    error: float
    flops_per_s: float


@cache
def select_matmul_precision() -> str:
    """Select the mode for this process that was the fastest exact one on this machine, unless tuning is off.

    Raises ConfigError for an ARCHLAB_MATMUL_MODE that is not a mode.
    """
    if not tuning_enabled() or not torch.backends.mkldnn.is_available():
        return DEFAULT
    modes = (DEFAULT, *CANDIDATES)
    mode = os.environ.get(MODE) or choose_once("matmul", modes, lambda: fastest_exact_mode(measure_modes()))
    if mode not in modes:
        raise ConfigError(MODE, f"{mode!r} is not one of {', '.join(modes)}{did_you_mean(mode, modes)}")
    _onednn_matmul().fp32_precision = mode
    return mode


def fastest_exact_mode(measured: tuple[MatmulMode, ...]) -> str:
    """Return the fastest mode with float32 accuracy; the first is the default, which others must beat clearly."""
    default, *others = measured
    least = MIN_SPEEDUP * default.flops_per_s
    exact = [mode for mode in others if mode.error <= LARGEST_ERROR and mode.flops_per_s >= least]
    return max(exact, key=lambda mode: mode.flops_per_s).name if exact else default.name


@cache
def measure_modes() -> tuple[MatmulMode, ...]:
    """Measure every mode, which takes a few milliseconds each."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, generator=generator, device="cpu") for _ in range(2))
    exact, names = a.double() @ b.double(), (DEFAULT, *CANDIDATES)
    times = best_times([partial(_matmul_in_mode, name, a, b) for name in names], a.device, ROUNDS)
    return tuple(
        MatmulMode(name, _relative_error(_matmul_in_mode(name, a, b), exact), 2 * SIZE**3 / seconds)
        for name, seconds in zip(names, times, strict=True)
    )


def _matmul_in_mode(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    with use_mode(name):
        return a @ b


def _relative_error(product: torch.Tensor, exact: torch.Tensor) -> float:
    return float((product.double() - exact).norm() / exact.norm())


@contextmanager
def use_mode(name: str) -> Iterator[None]:
    """Temporarily select a float32 matmul mode."""
    before = _onednn_matmul().fp32_precision
    _onednn_matmul().fp32_precision = name
    try:
        yield
    finally:
        _onednn_matmul().fp32_precision = before


def _onednn_matmul() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
