"""Gradients of an update that several ranks have computed: their sums, and their norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from archlab.parallel.ranks import Ranks
from archlab.parallel.tensor import get_cuts

_SUMMED_OVER = ("replicate", "chunk")  # FSDP sums over the shards
BUCKET = 2**25  # bytes of gradients that are sent at a time


@torch.no_grad()
def sum_gradients(model: nn.Module, ranks: Ranks) -> None:
    """Sum the gradients over the ranks that have the same weights; each has divided by the targets of all.

    Along the axis `tensor` each rank's loss was its part of the whole, and so are the gradients of replicated
    parameters.
    """
    sizes = ranks.layout.to_dict()
    groups = [ranks.mesh.get_group(axis) for axis in _SUMMED_OVER if sizes[axis] > 1]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if groups:
        _sum(trained, groups)
    if ranks.layout.shard > 1 and (whole := [p for p in trained if not isinstance(p, DTensor)]):
        _sum(whole, [ranks.mesh.get_group("shard")])
    if ranks.layout.tensor > 1:
        cuts = get_cuts(model)
        common = [p for name, p in model.named_parameters() if p.requires_grad and name not in cuts]
        _sum(common, [ranks.mesh.get_group("tensor")])


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


@torch.no_grad()
def clip_gradients(model: nn.Module, max_norm: float, ranks: Ranks | None = None) -> float:
    """Scale the gradients to a norm over all of their shards and parts, and return the norm from before."""
    cuts, parts, common = get_cuts(model), list[Tensor](), list[Tensor]()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            (parts if name in cuts else common).append(parameter.grad)
    if not parts and len({isinstance(gradient, DTensor) for gradient in common}) == 1:
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    square = _square(common)
    if ranks is not None and ranks.layout.tensor > 1:
        own = _square(parts) + torch.zeros_like(square)
        dist.all_reduce(own, group=ranks.mesh.get_group("tensor"))
        square = square + own
    total = square.sqrt()
    scale = float((max_norm / (total + 1e-6)).clamp(max=1.0))  # as torch's own
    for gradient in (*parts, *common):
        gradient.mul_(scale)
    return float(total)


def _square(gradients: Sequence[Tensor]) -> Tensor:
    """Return the square of the norm of gradients, each sharded or whole."""
    kinds = [[g for g in gradients if isinstance(g, DTensor) == is_sharded] for is_sharded in (True, False)]
    norms = [nn.utils.get_total_norm(kind) for kind in kinds if kind]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return torch.stack(whole).square().sum() if whole else torch.zeros(())


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
