"""What a rank has of a model, from the tensors of a checkpoint: no more of them is read than that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from archlab.errors import ArchlabError
from archlab.parallel.parts import Part, local_of, parts_of
from archlab.storage.stored_tensors import StoredTensors
from archlab.storage.tensors import TensorFit, fit_tensors, named_tensors


def load_into(model: nn.Module, stored: StoredTensors) -> None:
    """Load tensors into a model; raise ArchlabError, changing nothing, unless names and shapes match."""
    assert not any(tensor.is_meta for tensor in named_tensors(model).values()), "a model on meta holds no values"
    fit = fit_stored(model, stored)
    if not fit.is_exact:
        raise ArchlabError(f"{stored.source}: does not fit the model: {fit}")
    load_named(model, stored, fit.matching)


def fit_stored(model: nn.Module, stored: StoredTensors) -> TensorFit:
    """Compare stored tensors with the whole ones of a model, which may be on meta, by name, kind and shape."""
    own = named_tensors(model)
    whole = {
        name: torch.empty(part.shape, dtype=own[name].dtype, device="meta")
        for name, part in parts_of(model, own).items()
    }
    return fit_tensors(whole, stored.meta_tensors())


@torch.no_grad()
def load_named(model: nn.Module, stored: StoredTensors, names: Iterable[str]) -> None:
    """Load tensors of these names, which fit, into a model."""
    own = named_tensors(model)
    parts = parts_of(model, own)
    for name in names:
        local_of(own[name]).copy_(stored.read(name, parts[name]))


def read_parts(model: nn.Module, stored: StoredTensors) -> dict[str, Tensor]:
    """Return this rank's parts of an optimizer's tensors, whose names are those of the model's after a prefix.

    What belongs to no tensor of the model is returned whole, for the caller to find. Raises ArchlabError for one that
    has not the shape of the model's tensor, where ranks divide that.
    """
    parts, described = parts_of(model, named_tensors(model)), stored.meta_tensors()
    return {name: stored.read(name, _part_to_load(name, parts, described[name], stored.source)) for name in stored}


def _part_to_load(name: str, parts: Mapping[str, Part], described: Tensor, source: Path) -> Part | None:
    key, _, owner = name.partition(".")
    part, shape = parts.get(owner), tuple(described.shape)
    if part is None or part.is_whole or key == "step":
        return None
    if part.shape != shape:
        raise ArchlabError(f"{source}: {name!r} is {list(shape)} and not {list(part.shape)}")
    return part
