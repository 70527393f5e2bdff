"""Which part of a whole tensor a rank has, whoever divides it, and which of the ranks with the same part saves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from archlab.parallel.division import Cut
from archlab.parallel.ranks import AXES, Ranks
from archlab.parallel.tensor import get_cuts


@dataclass(frozen=True)
class Part:
    """A box of a whole tensor of `shape`: where it begins, and its size along each axis."""

    shape: tuple[int, ...]
    begin: tuple[int, ...]
    size: tuple[int, ...]
    axes: frozenset[str] = frozenset()  # of the layout, along which ranks have other parts

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the tensor."""
        return self.size == self.shape

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where it begins and ends along each axis."""
        return tuple((begin, begin + size) for begin, size in zip(self.begin, self.size, strict=True))


def parts_of(model: nn.Module, tensors: Mapping[str, Tensor], *, prefixed: bool = False) -> dict[str, Part]:
    """Return the part of each tensor that this rank has.

    They are by the names of the model's parameters, or `prefixed` by another one, as moments are.
    """
    cuts = get_cuts(model)
    return {
        name: _part_of(tensor, cuts.get(name.partition(".")[2] if prefixed else name))
        for name, tensor in tensors.items()
    }


def _part_of(tensor: Tensor, cut: Cut | None) -> Part:
    shape, begin, size = list(tensor.shape), [0] * tensor.dim(), list(local_of(tensor).shape)
    axes = set()
    if isinstance(tensor, DTensor):
        (placement,), mesh = tensor.placements, tensor.device_mesh  # which `shard_model` makes of one axis
        if isinstance(placement, Shard):
            most = -(-shape[placement.dim] // mesh.size())
            begin[placement.dim] = min(shape[placement.dim], mesh.get_local_rank() * most)
            axes.add("shard")
    if cut is not None and shape:  # a moment's count of steps has no parts
        shape[cut.axis] = cut.size
        begin[cut.axis] += cut.begin
        axes.add("tensor")
    return Part(tuple(shape), tuple(begin), tuple(size), frozenset(axes))


def local_of(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, without a gradient, as a view that can be written to."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def with_local(own: Tensor, part: Tensor) -> Tensor:
    """Return this rank's part of a tensor as another tensor has its own: divided, where that is."""
    if not isinstance(own, DTensor):
        return part
    mesh, placements = own.device_mesh, own.placements
    return DTensor.from_local(part.to(own.device), mesh, placements, shape=own.shape, stride=own.stride())


def is_saver(part: Part, number: int, ranks: Ranks) -> bool:
    """Return whether this rank saves a part of the tensor of this number: ranks with the same part take turns."""
    index, count = 0, 1
    sizes, rank = ranks.layout.to_dict(), ranks.rank
    for axis in reversed(AXES):  # ranks are numbered with the last axis inside
        rank, own = divmod(rank, sizes[axis])
        if axis not in part.axes:
            index, count = index + own * count, count * sizes[axis]
    return number % count == index
