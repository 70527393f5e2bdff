"""Faster bodies of operations, by device: what is installed here is taken in place of plain PyTorch.

An exported model has none, and runs the plain forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_FASTER: dict[tuple[str, str], Callable[..., Any]] = {}


def install(operation: str, device_type: str, body: Callable[..., Any]) -> None:
    """Take this body for an operation on tensors of a device."""
    _FASTER[operation, device_type] = body


def faster(operation: str, x: Tensor) -> Callable[..., Any] | None:
    """Return the body installed for the device of this tensor."""
    return _FASTER.get((operation, x.device.type))


def is_taken(operation: str, x: Tensor, call: Callable[[], object]) -> bool:
    """Run something, and tell whether it took the operation's faster body, which may not serve every use."""
    body = faster(operation, x)
    if body is None:
        return False
    uses: list[None] = []

    def noted(*inputs: Any, **options: Any) -> Any:
        uses.append(None)
        return body(*inputs, **options)

    install(operation, x.device.type, noted)
    try:
        call()
    finally:
        install(operation, x.device.type, body)
    return bool(uses)


@contextmanager
def plain() -> Iterator[None]:
    """Run the plain forms for a while."""
    installed = dict(_FASTER)
    _FASTER.clear()
    try:
        yield
    finally:
        _FASTER.update(installed)
