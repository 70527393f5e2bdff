"""Backends of operations by device type: a registered one replaces an operation's PyTorch implementation.

Operations ask for their backend at every call and never import one, so that an exported model, which has none, runs
the PyTorch implementations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor

_BACKENDS: dict[tuple[str, str], Callable[..., Any]] = {}


def register_backend(operation: str, device_type: str, backend: Callable[..., Any]) -> None:
    """Register a backend of an operation for tensors on a type of device, in place of an earlier one."""
    _BACKENDS[operation, device_type] = backend


def find_backend(operation: str, x: Tensor) -> Callable[..., Any] | None:
    """Return the backend registered for the device of this tensor."""
    return _BACKENDS.get((operation, x.device.type))


def uses_backend(operation: str, x: Tensor, call: Callable[[], object]) -> bool:
    """Run a function, and return whether it called the operation's backend, which need not support every input."""
    backend = find_backend(operation, x)
    if backend is None:
        return False
    calls: list[None] = []

    def record(*inputs: Any, **options: Any) -> Any:
        calls.append(None)
        return backend(*inputs, **options)

    register_backend(operation, x.device.type, record)
    try:
        call()
    finally:
        register_backend(operation, x.device.type, backend)
    return bool(calls)


def reference_only() -> AbstractContextManager[None]:
    """Temporarily disable all backends, so that the PyTorch implementations run."""
    return use_backends({})


def replace_backends(backends: Mapping[tuple[str, str], Callable[..., Any]]) -> AbstractContextManager[None]:
    """Temporarily use these backends in place of those of their operations and types of device."""
    return use_backends({**_BACKENDS, **backends})


@contextmanager
def use_backends(backends: Mapping[tuple[str, str], Callable[..., Any]]) -> Iterator[None]:
    """Temporarily use these backends, by operation and type of device, and no others."""
    registered = dict(_BACKENDS)
    _BACKENDS.clear()
    _BACKENDS.update(backends)
    try:
        yield
    finally:
        _BACKENDS.clear()
        _BACKENDS.update(registered)
