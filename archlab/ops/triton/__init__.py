"""Bodies in Triton, for operations that a compiler does not make fast on a GPU."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch

from archlab.ops.dispatch import register_backend
from archlab.runtime.private_apis import has_triton

OPERATIONS = ("diagonal_scan", "gated_linear", "logit_gradients", "timestep_norm")


@cache
def register_triton_backends() -> None:
    """Take them on CUDA devices (NVIDIA's, or AMD's under ROCm), where there is one."""
    if torch.cuda.is_available() and has_triton():
        for operation in OPERATIONS:
            register_backend(operation, "cuda", getattr(kernels_of(operation), operation))


def kernels_of(operation: str) -> Any:
    """Return the module of an operation's kernels; needs triton."""
    return import_module(f"{__name__}.{operation}")
