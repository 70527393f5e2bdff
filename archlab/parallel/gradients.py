"""Gradients of an update that several ranks have computed: their sums, and their norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from archlab.parallel.ranks import Ranks

_SUMMED_OVER = ("replicate", "chunk")  # FSDP sums over the shards
_BUCKET = 2**25  # bytes of gradients that are sent at a time


@torch.no_grad()
def sum_gradients(model: nn.Module, ranks: Ranks) -> None:
    """Sum the gradients over the ranks that have the same weights; each has divided by the targets of all."""
    groups = [ranks.mesh.get_group(axis) for axis in _SUMMED_OVER if ranks.layout.to_dict()[axis] > 1]
    if not groups:
        return
    used = _used_anywhere([p for p in model.parameters() if p.requires_grad], groups)
    for bucket in _buckets([_local(_gradient(parameter)) for parameter in used]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        for group in groups:
            dist.all_reduce(flat, group=group)
        parts = flat.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _used_anywhere(parameters: Sequence[nn.Parameter], groups: Sequence[dist.ProcessGroup]) -> list[nn.Parameter]:
    """Return the parameters that have a gradient on some rank: one without any stays so, and is not decayed."""
    if not parameters:
        return []
    device = _local(parameters[0]).device
    has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32, device=device)
    for group in groups:
        dist.all_reduce(has, dist.ReduceOp.MAX, group=group)
    return [parameter for parameter, used in zip(parameters, has.tolist(), strict=True) if used]


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket, size = list[Tensor](), 0
    for gradient in gradients:
        if bucket and (size > _BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale the gradients to a norm over all of their shards, and return the norm from before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
