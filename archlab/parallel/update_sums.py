"""Layers' counts over the tokens of an update, summed over all ranks, and the layers' adaptation to them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from archlab.parallel.ranks import Ranks


def finish_update(model: nn.Module, sums: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Pass each layer its count over all tokens of an update, by the layers' paths."""
    for path, total in _over_ranks(sums, ranks).items():
        model.get_submodule(path).finish_update(total)  # type: ignore[operator]


def _over_ranks(sums: Mapping[str, Tensor], ranks: Ranks) -> Mapping[str, Tensor]:
    """Add up whole numbers, so that their sums do not depend on how ranks divide an update."""
    if ranks.session is None or not sums:
        return sums
    assert not any(tensor.is_floating_point() for tensor in sums.values())
    flat = torch.cat([tensor.flatten() for tensor in sums.values()])
    if ranks.rank % ranks.layout.tensor:  # ranks that differ in `tensor` alone have counted the same tokens
        flat = torch.zeros_like(flat)
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in sums.values()])
    return {name: part.view_as(tensor) for (name, tensor), part in zip(sums.items(), parts, strict=True)}
