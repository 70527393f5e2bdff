"""The backends of a training step that is traced without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archlab.ops.grouped_linear import grouped_backends
from archlab.ops.native import native_backends
from archlab.ops.slstm import slstm_backends


def traced_backends() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return all that a training step may have, as every trace has them: their operations need shapes alone."""
    return slstm_backends() | native_backends() | grouped_backends()
