"""Weights, gradients and moments divided among ranks: torch's fully_shard (FSDP2), and tensors that are whole again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from archlab.modeling.backbone import get_features, iter_blocks
from archlab.parallel.ranks import Ranks
from archlab.parallel.tensor import gather_part, get_cuts


def shard_model(model: nn.Module, ranks: Ranks) -> None:
    """Divide a model's parameters in place, block by block: each is whole only while it computes.

    The last change of a model: after activation checkpointing and compilation.
    """
    if ranks.layout.shard == 1:
        return
    mesh = ranks.mesh["shard"]
    # fully_shard takes no parameter without dimensions: every rank has all of these, and their gradients are summed.
    kept_whole = {parameter for parameter in model.parameters() if parameter.dim() == 0}
    for part in [*iter_blocks(model), model]:
        fully_shard(part, mesh=mesh, ignored_params=kept_whole)
        assert isinstance(part, FSDPModule)
        # The loss divides by the targets of all ranks, so that gradients are sums: gloo has no other reduction either.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    if get_features(model) is not None:
        register_fsdp_forward_method(model, "features")  # which the loss in chunks calls in place of the model


def is_divided(model: nn.Module) -> bool:
    """Return whether ranks divide a model's parameters."""
    return isinstance(model, FSDPModule) or bool(get_cuts(model))


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


def whole_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors, named as a model's parameters, with those that are divided gathered, which all ranks do."""
    whole, cuts = {}, get_cuts(model)
    for name, tensor in tensors.items():
        full = tensor.detach()
        if isinstance(full, DTensor):
            full = full.full_tensor()
        whole[name] = gather_part(full, cuts[name]) if name in cuts else full
    return whole
