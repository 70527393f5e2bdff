"""Tensors of another implementation, by its names, into and out of a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from archlab.errors import ArchlabError, did_you_mean

Layout: TypeAlias = Callable[[str, Tensor], Tensor]
Named: TypeAlias = Mapping[str, Sequence[nn.Parameter]]


def load_tensors(
    wanted: Named, given: Iterable[tuple[str, Tensor]], to_ours: Layout | None, optional: Collection[str] = ()
) -> None:
    """Give parameters the values of tensors; `wanted` are ours for each of their names, joined in theirs along axis 0.

    Raises ArchlabError for a tensor that is unknown, missing unless `optional`, or of another shape.
    """
    seen = set()
    for name, tensor in given:
        if name not in wanted:
            raise ArchlabError(f"unknown tensor {name!r}{did_you_mean(name, wanted)}")
        seen.add(name)
        _copy(name, to_ours(name, tensor) if to_ours else tensor, wanted[name])
    for name in wanted:
        if name not in seen and name not in optional:
            raise ArchlabError(f"tensor {name!r} is missing")


def _copy(name: str, tensor: Tensor, ours: Sequence[nn.Parameter]) -> None:
    first, sizes = ours[0], [len(parameter) if parameter.dim() else 1 for parameter in ours]
    expected = (sum(sizes), *first.shape[1:]) if first.dim() else ()
    if tuple(tensor.shape) != expected:
        raise ArchlabError(f"{name}: shape {tuple(tensor.shape)} is not {tuple(expected)}")
    with torch.no_grad():
        for parameter, piece in zip(ours, tensor.split(sizes) if first.dim() else [tensor], strict=True):
            parameter.copy_(piece)


def export_tensors(wanted: Named, to_theirs: Layout | None) -> dict[str, Tensor]:
    """Return parameters under the other implementation's names, in its layout."""
    found = {name: _join([parameter.detach() for parameter in ours]) for name, ours in wanted.items()}
    return {name: to_theirs(name, tensor) if to_theirs else tensor for name, tensor in found.items()}


def _join(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
