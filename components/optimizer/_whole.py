"""Gathering of whole tensors from the parts of ranks, and back."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gather(part: Tensor, like: Tensor) -> Tensor:
    """Return the whole tensor of which this rank has a part as it has of `like`; all ranks call this."""
    if not isinstance(like, DTensor):
        return part
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(part, mesh, placements, shape=like.shape, stride=like.stride()).full_tensor()


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor that every rank has computed, as it has of `like`."""
    if not isinstance(like, DTensor):
        return whole
    # Without a source rank nothing is sent.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local()
