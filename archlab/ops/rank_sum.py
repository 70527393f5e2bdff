"""Sums over the ranks that compute one tensor in parts, with their gradient.

Each rank's loss is taken to be its part of the whole: the gradient of a tensor that all ranks have is then the sum of
theirs, whatever each of them has computed with it, and the gradient of a sum over ranks is the sum of its gradients.
So code between two sums needs to know nothing of ranks. B batch, T time, V outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

_groups: dict[str, dist.ProcessGroup] = {}


@dataclass(frozen=True)
class RankAxis:
    """Ranks that divide tensors among them: how many, which this one is, and the name of their group."""

    size: int
    index: int
    group: str

    @classmethod
    def of_group(cls, group: dist.ProcessGroup) -> RankAxis:
        """Return the axis of a process group."""
        _groups[group.group_name] = group
        return cls(group.size(), group.rank(), group.group_name)


@torch.library.custom_op("archlab::rank_reduce", mutates_args=())
def _reduce(x: Tensor, how: str, group: str) -> Tensor:
    # A name in place of the group, which no graph can hold.
    reduced = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(reduced, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[how], group=_groups[group])
    return reduced


@_reduce.register_fake
def _(x: Tensor, how: str, group: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep_group(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.how, ctx.group = inputs


def _sum_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    assert ctx.how == "sum", "the maximum over ranks has no gradient"
    return _reduce(gradient, "sum", ctx.group), None, None


_reduce.register_autograd(_sum_gradient, setup_context=_keep_group)


def sum_over_ranks(x: Tensor, group: str) -> Tensor:
    """Return the sum of a tensor over the ranks of a group, all of which call this."""
    summed: Tensor = _reduce(x, "sum", group)
    return summed


def max_over_ranks(x: Tensor, group: str) -> Tensor:
    """Return the largest of the ranks' values at each place; without a gradient."""
    largest: Tensor = _reduce(x, "max", group)
    return largest


def gather_outputs(x_BTV: Tensor, before: int, size: int, group: str) -> Tensor:
    """Return all `size` entries of the last axis, of which each rank has those after the `before` first ones."""
    # As a sum of disjoint parts: ranks may have different numbers of entries, and the gradient follows.
    return sum_over_ranks(F.pad(x_BTV, (before, size - before - x_BTV.shape[-1])), group)


def gather_over_ranks(x: Tensor, group: str) -> Tensor:
    """Return the tensors of all ranks, of one shape, joined along the first axis; without a gradient."""
    gathered = [torch.empty_like(x) for _ in range(_groups[group].size())]
    dist.all_gather(gathered, x, group=_groups[group])
    return torch.cat(gathered)


# Gathering, with its gradient: what a rank has given is read by all, so that its gradient is the sum of theirs.
@torch.library.custom_op("archlab::rank_gather", mutates_args=())
def _gather(x: Tensor, size: int, group: str) -> Tensor:
    return gather_over_ranks(x[None].contiguous(), group)


@_gather.register_fake
def _(x: Tensor, size: int, group: str) -> Tensor:
    return x.new_empty(size, *x.shape)


@torch.library.custom_op("archlab::rank_scatter_sum", mutates_args=())
def _scatter_sum(x: Tensor, group: str) -> Tensor:
    # gloo has no reduce-scatter.
    return _reduce(x, "sum", group)[_groups[group].rank()].clone()


@_scatter_sum.register_fake
def _(x: Tensor, group: str) -> Tensor:
    return x.new_empty(x.shape[1:])


def _keep_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.group = inputs[2]


def _gather_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return _scatter_sum(gradient, ctx.group), None, None


_gather.register_autograd(_gather_gradient, setup_context=_keep_gather)


def gather_with_gradient(x: Tensor, axis: RankAxis) -> Tensor:
    """Return the tensors of all ranks of an axis [n, ...], of one shape; all of them call this."""
    gathered: Tensor = _gather(x, axis.size, axis.group)
    return gathered


@torch.library.custom_op("archlab::tie_gradient", mutates_args=())
def _tie(x: Tensor, other: Tensor) -> Tensor:
    return x.clone()


@_tie.register_fake
def _(x: Tensor, other: Tensor) -> Tensor:
    return torch.empty_like(x)


def _keep_other(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _tied_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return gradient, torch.zeros_like(ctx.saved_tensors[0])


_tie.register_autograd(_tied_gradient, setup_context=_keep_other)


def tie_gradient(x: Tensor, other: Tensor) -> Tensor:
    """Return x; the backward pass through it also passes through the other tensor, with a gradient of 0."""
    if not (other.requires_grad and torch.is_grad_enabled()):
        return x
    tied: Tensor = _tie(x, other)
    return tied
