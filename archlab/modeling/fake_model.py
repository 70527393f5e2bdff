"""A model on the meta device, temporarily with tensors that act like those of the CPU and still have no memory."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from archlab.runtime.private_apis import fake_tensors


@contextmanager
def on_fake_cpu(model: nn.Module) -> Iterator[list[Tensor]]:
    """Move a model's tensors to a CPU without memory; yield them, shared ones once. Tensors made inside are there too.

    Operations then take the paths that they take on a CPU, autocast and fused kernels among them.
    """
    tables = [table for module in model.modules() for table in (*_tables(module), vars(module))]
    original = [(table, name, value) for table in tables for name, value in table.items() if isinstance(value, Tensor)]
    fakes: dict[int, Tensor] = {}
    with fake_tensors():
        try:
            for table, name, tensor in original:
                table[name] = fakes.setdefault(id(tensor), _fake(tensor))
            yield list(fakes.values())
        finally:
            for table, name, tensor in original:
                table[name] = tensor


def _tables(module: nn.Module) -> tuple[MutableMapping[str, Any], ...]:
    # Assigning an attribute would register the tensor again, or ask a property for leave.
    return vars(module)["_parameters"], vars(module)["_buffers"]


def _fake(tensor: Tensor) -> Tensor:
    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
