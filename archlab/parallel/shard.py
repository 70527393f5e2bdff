"""Weights, gradients and moments divided among ranks: torch's fully_shard (FSDP2), and tensors that are whole again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from archlab.modeling.backbone import get_features, iter_blocks
from archlab.parallel.ranks import Ranks


def shard_model(model: nn.Module, ranks: Ranks) -> None:
    """Divide a model's parameters in place, block by block: each is whole only while it computes.

    Last of what is done to a model: after activation checkpointing and compilation.
    """
    if ranks.layout.shard == 1:
        return
    mesh = ranks.mesh["shard"]
    for part in [*iter_blocks(model), model]:
        fully_shard(part, mesh=mesh)
        assert isinstance(part, FSDPModule)
        # The loss divides by the targets of all ranks, so that gradients are sums: gloo has no other reduction either.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    if get_features(model) is not None:
        register_fsdp_forward_method(model, "features")  # which the loss in chunks calls in place of the model


def unshard(model: nn.Module) -> None:
    """Have the parameters around the blocks whole: the loss reads the head's weight before it calls the model."""
    if isinstance(model, FSDPModule):
        model.unshard()


@contextmanager
def whole_ends(model: nn.Module) -> Iterator[None]:
    """Have the parameters around the blocks whole in a block without a backward pass, which would divide them again."""
    unshard(model)
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()


def whole_tensors(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Return tensors with those that are divided gathered, which all ranks do; a rank that keeps none has none."""
    whole = {}
    for name, tensor in tensors.items():
        full = tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
        if keep:
            whole[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return whole


def divided_like(own: Tensor, whole: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, divided as another is; itself if that is whole."""
    if not isinstance(own, DTensor):
        return whole
    # Every rank has read all of it: nothing is sent.
    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
