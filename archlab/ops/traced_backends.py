"""The backends of a training step that is traced without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archlab.ops.gpu_attention import causal_attention
from archlab.ops.grouped_linear import grouped_backends
from archlab.ops.native import native_backends
from archlab.ops.slstm import slstm_backends
from archlab.ops.triton import OPERATIONS
from archlab.ops.visited_blocks import block_backends


def traced_backends(device: str) -> dict[tuple[str, str], Callable[..., Any]]:
    """Return all that a training step on `cpu`, `auto` or `cuda` may have: their operations need shapes alone.

    A trace for a GPU takes place on a CPU too. There the C++ backends stand in for those of a GPU, and an operation
    without one there, such as Mamba's scan, is left to the compiler.
    """
    own = slstm_backends() | native_backends() | block_backends()
    if device == "cuda":
        there = {*OPERATIONS, *(name for name, device_type in own if device_type == "cuda")}
        own = {key: backend for key, backend in own.items() if key[0] in there}
        own["causal_attention", "cpu"] = causal_attention
    return own | grouped_backends()
