"""The CPU's vector functions, made to answer alike from the first call on."""

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
    """Call each function once, from one thread.

    In a process's first call of `exp` from several threads, on a busy machine, answers good to four digits
    only have been seen (torch 2.13 with MKL), so that two equal runs differed from the first step on.
    """
    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype, device="cpu")
        for function in FUNCTIONS:
            getattr(torch, function)(one)
