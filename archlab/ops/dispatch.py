"""Faster bodies of operations, by device: what is installed here is taken in place of plain PyTorch.

An exported model has none, and runs the plain forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_BACKENDS: dict[tuple[str, str], Callable[..., Any]] = {}


def register_backend(operation: str, device_type: str, body: Callable[..., Any]) -> None:
    """Take this body for an operation on tensors of a device."""
    _BACKENDS[operation, device_type] = body


def find_backend(operation: str, x: Tensor) -> Callable[..., Any] | None:
    """Return the body installed for the device of this tensor."""
    return _BACKENDS.get((operation, x.device.type))


def uses_backend(operation: str, x: Tensor, call: Callable[[], object]) -> bool:
    """Run something, and tell whether it took the operation's faster body, which may not serve every use."""
    body = find_backend(operation, x)
    if body is None:
        return False
    uses: list[None] = []

    def noted(*inputs: Any, **options: Any) -> Any:
        uses.append(None)
        return body(*inputs, **options)

    register_backend(operation, x.device.type, noted)
    try:
        call()
    finally:
        register_backend(operation, x.device.type, body)
    return bool(uses)


@contextmanager
def reference_only() -> Iterator[None]:
    """Run the plain forms for a while."""
    installed = dict(_BACKENDS)
    _BACKENDS.clear()
    try:
        yield
    finally:
        _BACKENDS.update(installed)
