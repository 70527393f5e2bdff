"""Warm-up of the CPU's vector math library, for reproducible results from the first call on."""

from __future__ import annotations

from functools import cache

import torch

FUNCTIONS = (
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "sin",
    "cos",
    "tan",
    "tanh",
    "erf",
    "erfc",
    "sqrt",
    "rsqrt",
)


@cache
def warm_up_vector_math() -> None:
    """Call each function once from one thread."""
    # On a busy machine, a process's first call of `exp` from several threads at once has returned values that are
    # accurate to four digits only (torch 2.13 with MKL), so that two equal runs differed from the first step on.
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype, device="cpu")
        for function in FUNCTIONS:
            getattr(torch, function)(one)
