"""C++ backends, for operations that neither PyTorch nor its compiler makes fast on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from archlab.ops.dispatch import register_backend

from . import causal_attention, diagonal_scan, selective_scan, slstm

OPERATIONS = {
    "causal_attention": causal_attention,
    "diagonal_scan": diagonal_scan,
    "selective_scan": selective_scan,
    "slstm": slstm,
}


@cache
def register_native_backends() -> None:
    """Register the C++ backends for CPUs, building those not in the cache; a failed build leaves PyTorch's in use."""
    for name, module in OPERATIONS.items():
        if module.is_available():
            register_backend(name, "cpu", getattr(module, name))


def native_backends() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return the C++ backends, whether or not they can be built here: a trace without values needs shapes alone."""
    return {(name, "cpu"): getattr(module, name) for name, module in OPERATIONS.items()}
