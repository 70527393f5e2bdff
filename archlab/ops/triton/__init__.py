"""Triton backends, for operations that torch.compile does not make fast on a GPU."""

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
    """Register the Triton backends for CUDA devices (NVIDIA's, or AMD's under ROCm), if there is one."""
    if torch.cuda.is_available() and has_triton():
        for operation in OPERATIONS:
            register_backend(operation, "cuda", getattr(kernels_of(operation), operation))


def kernels_of(operation: str) -> Any:
    """Import and return the module of an operation's kernels; requires triton."""
    return import_module(f"{__name__}.{operation}")
