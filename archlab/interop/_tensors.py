"""Tensors under another implementation's names, loaded into a model and exported from one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from archlab.errors import ArchlabError, did_you_mean

Layout: TypeAlias = Callable[[str, Tensor], Tensor]
ParametersByName: TypeAlias = Mapping[str, Sequence[nn.Parameter]]


def load_tensors(
    parameters: ParametersByName,
    tensors: Iterable[tuple[str, Tensor]],
    layout: Layout | None = None,
    optional: Collection[str] = (),
) -> None:
    """Copy tensors into the parameters of their names, several of which one tensor concatenates on axis 0.

    Raises ArchlabError for a tensor that is unknown, missing unless `optional`, or of another shape.
    """
    seen = set()
    for name, tensor in tensors:
        if name not in parameters:
            raise ArchlabError(f"unknown tensor {name!r}{did_you_mean(name, parameters)}")
        seen.add(name)
        _copy(name, layout(name, tensor) if layout else tensor, parameters[name])
    for name in parameters:
        if name not in seen and name not in optional:
            raise ArchlabError(f"tensor {name!r} is missing")


def _copy(name: str, tensor: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    first, sizes = parameters[0], [len(parameter) if parameter.dim() else 1 for parameter in parameters]
    expected = (sum(sizes), *first.shape[1:]) if first.dim() else ()
    if tuple(tensor.shape) != expected:
        raise ArchlabError(f"{name}: shape {tuple(tensor.shape)} is not {tuple(expected)}")
    with torch.no_grad():
        for parameter, piece in zip(parameters, tensor.split(sizes) if first.dim() else [tensor], strict=True):
            parameter.copy_(piece)


def export_tensors(parameters: ParametersByName, layout: Layout | None = None) -> dict[str, Tensor]:
    """Return parameters under the other implementation's names, in its layout."""
    tensors = {name: _concatenate([p.detach() for p in several]) for name, several in parameters.items()}
    return {name: layout(name, tensor) if layout else tensor for name, tensor in tensors.items()}


def _concatenate(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
