"""Tensors under another implementation's names, loaded into a model and exported from one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from archlab.errors import ArchlabError, did_you_mean

Layout: TypeAlias = Callable[[str, Tensor], Tensor]
ParametersByName: TypeAlias = Mapping[str, Sequence[Tensor]]


def load_tensors(
    parameters: ParametersByName,
    tensors: Iterable[tuple[str, Tensor]],
    layout: Layout | None = None,
    optional: Collection[str] = (),
    tied_by: str = "the configuration",
) -> None:
    """Copy tensors into the parameters of their names, several of which one tensor concatenates on axis 0.

    Raises ArchlabError for a tensor that is unknown, missing unless `optional`, of another shape, not finite, or
    unequal to another one of the same parameter, which `tied_by` says are one.
    """
    seen: set[str] = set()
    written: dict[int, str] = {}
    for name, tensor in tensors:
        pieces = _split(name, tensor, parameters, layout)
        seen.add(name)
        for parameter, piece in zip(parameters[name], pieces, strict=True):
            first = written.setdefault(id(parameter), name)
            if first == name:
                _copy(name, piece, parameter)
            elif not torch.equal(piece.to(parameter.dtype), parameter):
                raise ArchlabError(f"tensors {first!r} and {name!r} differ, and {tied_by} says that they are one")
    _require_all(parameters, seen, optional)


def check_tensors(
    parameters: ParametersByName,
    tensors: Iterable[tuple[str, Tensor]],
    layout: Layout | None = None,
    optional: Collection[str] = (),
) -> None:
    """Raise the errors of `load_tensors` about names and shapes; the tensors may be on the meta device."""
    seen: set[str] = set()
    for name, tensor in tensors:
        _split(name, tensor, parameters, layout)
        seen.add(name)
    _require_all(parameters, seen, optional)


def _require_all(parameters: ParametersByName, seen: Collection[str], optional: Collection[str]) -> None:
    for name in parameters:
        if name not in seen and name not in optional:
            raise ArchlabError(f"tensor {name!r} is missing")


def _split(name: str, tensor: Tensor, parameters: ParametersByName, layout: Layout | None) -> Sequence[Tensor]:
    """Return the piece of a tensor for each of its parameters, of the parameter's shape."""
    if name not in parameters:
        raise ArchlabError(f"unknown tensor {name!r}{did_you_mean(name, parameters)}")
    if not tensor.is_floating_point():
        raise ArchlabError(f"{name}: dtype {str(tensor.dtype).removeprefix('torch.')} is not a floating-point type")
    ours = _arrange(name, tensor, layout) if layout else tensor
    first, sizes = parameters[name][0], [len(p) if p.dim() else 1 for p in parameters[name]]
    expected = (sum(sizes), *first.shape[1:]) if first.dim() else ()
    if tuple(ours.shape) != expected:
        raise ArchlabError(f"{name}: shape {tuple(ours.shape)} is not {tuple(expected)}")
    return ours.split(sizes) if first.dim() else [ours]


def _arrange(name: str, tensor: Tensor, layout: Layout) -> Tensor:
    try:
        return layout(name, tensor)
    except (IndexError, RuntimeError) as error:  # an axis that its shape does not have
        raise ArchlabError(f"{name}: shape {tuple(tensor.shape)} is not that of such a tensor") from error


def _copy(name: str, piece: Tensor, parameter: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(piece)
    if not parameter.isfinite().all():
        dtype = str(parameter.dtype).removeprefix("torch.")
        raise ArchlabError(f"tensor {name!r} holds NaN, or values that are infinite in {dtype}")


def export_tensors(parameters: Mapping[str, Sequence[Tensor]], layout: Layout | None = None) -> dict[str, Tensor]:
    """Return parameters under the other implementation's names, in its layout."""
    tensors = {name: _concatenate([p.detach() for p in several]) for name, several in parameters.items()}
    return {name: layout(name, tensor) if layout else tensor for name, tensor in tensors.items()}


def _concatenate(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
