"""How near float32 matrix products come to the processor's peak: bare multiply-adds in registers.

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

ROUNDS, STEPS, REPEATED, TOKENS = 20, 2_000_000, 10, 4096
SIZES = [(TOKENS, DIM, DIM), (TOKENS, DIM, HIDDEN), (TOKENS, DIM, LLAMA_HIDDEN), (TOKENS, LLAMA_HIDDEN, DIM)]


def peak_flops() -> float:
    """Return the multiply-adds a second of all threads, as FLOPs."""
    source, sums = _library(), ctypes.c_float()
    arguments = (ctypes.c_long(STEPS), ctypes.c_float(0.5), ctypes.byref(sums))
    flops = source.peak(*arguments)
    (seconds,) = best_seconds(lambda: source.peak(*arguments), rounds=ROUNDS)
    return flops / seconds


def _library() -> ctypes.CDLL:
    library = compile_library(Path(__file__).with_suffix(".cpp"))
    if library is None:
        print(f"the peak needs a C++ compiler: {unavailable_reason() or 'the one here fails'}", file=sys.stderr)
        sys.exit(2)
    library.peak.restype = ctypes.c_double
    return library


def rate(m: int, k: int, n: int) -> float:
    """Return the GFLOP/s of one product, the fastest of some times that each is made often enough to be warm."""
    a, b = torch.randn(m, k), torch.randn(n, k)

    def step() -> None:
        for _ in range(REPEATED):
            a @ b.T

    (seconds,) = best_seconds(step, rounds=ROUNDS)
    return REPEATED * 2 * m * k * n / seconds / 1e9


def main() -> None:
    """Measure the products of the models that are compared, and the peak."""
    select_matmul_precision()
    peak = peak_flops() / 1e9
    rows = [Row(f"[{m}, {k}] times [{k}, {n}], over the peak", rate(m, k, n), peak, "GFLOP/s") for m, k, n in SIZES]
    show("Matrix products in float32", rows)


if __name__ == "__main__":
    main()
