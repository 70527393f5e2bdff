"""Float32 matrix products against the processor's peak: multiply-adds in registers only.

python benchmarks/peak.py
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch
from _measure import Row, best_seconds, show
from _models import DIM, HIDDEN, LLAMA_HIDDEN

from archlab.ops.native.library import compile_library, unavailable_reason
from archlab.runtime.matmul_precision import select_matmul_precision

ROUNDS, STEPS, REPEATS, TOKENS = 20, 2_000_000, 10, 4096
SIZES = [(TOKENS, DIM, DIM), (TOKENS, DIM, HIDDEN), (TOKENS, DIM, LLAMA_HIDDEN), (TOKENS, LLAMA_HIDDEN, DIM)]


def peak_flops() -> float:
    """Return the peak FLOP/s of all threads, by independent multiply-adds."""
    library, total = _library(), ctypes.c_float()
    arguments = (ctypes.c_long(STEPS), ctypes.c_float(0.5), ctypes.byref(total))
    flops = library.peak(*arguments)
    (seconds,) = best_seconds(lambda: library.peak(*arguments), rounds=ROUNDS)
    return flops / seconds


def _library() -> ctypes.CDLL:
    library = compile_library(Path(__file__).with_suffix(".cpp"))
    if library is None:
        print(f"the peak needs a C++ compiler: {unavailable_reason() or 'the build failed'}", file=sys.stderr)
        sys.exit(2)
    library.peak.restype = ctypes.c_double
    return library


def matmul_gflops(m: int, k: int, n: int) -> float:
    """Return the GFLOP/s of one product in the fastest round; a round repeats it, so that caches are warm."""
    a, b = torch.randn(m, k), torch.randn(n, k)

    def step() -> None:
        for _ in range(REPEATS):
            a @ b.T

    (seconds,) = best_seconds(step, rounds=ROUNDS)
    return REPEATS * 2 * m * k * n / seconds / 1e9


def main() -> None:
    """Compare the matrix products of the benchmarks' models with the peak."""
    select_matmul_precision()
    peak = peak_flops() / 1e9
    rows = [
        Row(f"[{m}, {k}] times [{k}, {n}], over the peak", matmul_gflops(m, k, n), peak, "GFLOP/s") for m, k, n in SIZES
    ]
    show("Matrix products in float32", rows)


if __name__ == "__main__":
    main()
