"""Gradients of an update that several ranks have computed: their sums, and their norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from archlab.parallel.ranks import Ranks
from archlab.parallel.shard import has_both_kinds

_SUMMED_OVER = ("replicate", "chunk")  # FSDP sums over the shards
BUCKET = 2**25  # bytes of gradients that are sent at a time


@torch.no_grad()
def sum_gradients(model: nn.Module, ranks: Ranks) -> None:
    """Sum the gradients over the ranks that have the same weights; each has divided by the targets of all."""
    sizes = ranks.layout.to_dict()
    groups = [ranks.mesh.get_group(axis) for axis in _SUMMED_OVER if sizes[axis] > 1]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if groups:
        _sum(trained, groups)
    if ranks.layout.shard > 1 and (whole := [p for p in trained if not isinstance(p, DTensor)]):
        _sum(whole, [ranks.mesh.get_group("shard")])


def _sum(parameters: Sequence[nn.Parameter], groups: Sequence[dist.ProcessGroup]) -> None:
    used = _used_anywhere(parameters, groups)
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
        if bucket and (size > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale the gradients to a norm over all of their shards, and return the norm from before."""
    if not has_both_kinds(model):
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    kinds = [[p for p in model.parameters() if isinstance(p, DTensor) == is_divided] for is_divided in (True, False)]
    norms = [nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total = torch.linalg.vector_norm(torch.stack(whole))
    for kind in kinds:
        scale = float((max_norm / (total + 1e-6)).clamp(max=1.0))  # as torch's own
        for parameter in kind:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
    return float(total)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
