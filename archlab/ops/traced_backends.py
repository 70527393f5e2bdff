"""The backends of a training step that is traced without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archlab.ops.gpu_attention import causal_attention
from archlab.ops.grouped_linear import grouped_backends
from archlab.ops.native import native_backends
from archlab.ops.slstm import slstm_backends
from archlab.ops.visited_blocks import block_backends


def traced_backends(device: str) -> dict[tuple[str, str], Callable[..., Any]]:
    """Return all that a training step on `cpu`, `auto` or `cuda` may have: their operations need shapes alone.

    A trace for a GPU takes place on a CPU too. Mamba's scan and attention to blocks have none there, and others keep
    the results of the C++ backends.
    """
    own = slstm_backends() | native_backends() | block_backends()
    if device == "cuda":
        del own["selective_scan", "cpu"], own["block_attention", "cpu"]
        own["causal_attention", "cpu"] = causal_attention
    return own | grouped_backends()
