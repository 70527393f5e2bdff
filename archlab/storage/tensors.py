"""Tensors by name, between modules and safetensors files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from archlab.errors import ArchlabError, one_line
from archlab.runtime.private_apis import COMPILED_PREFIX


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers; a tied one stands once, under its first name."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        named.setdefault(id(tensor), (name.replace(COMPILED_PREFIX, ""), tensor))
    return dict(named.values())


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors from any device to a safetensors file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file, metadata)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file into memory of its own; raise ArchlabError naming the file if it cannot be read."""
    if not file.is_file():
        raise ArchlabError(f"{file}: no such file")
    try:
        return {name: tensor.clone() for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ArchlabError(f"{file}: truncated, or not a safetensors file: {one_line(error)}") from error


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Give a model these values; raise ArchlabError, changing nothing, unless names and shapes agree."""
    own = named_tensors(model)
    assert not any(tensor.is_meta for tensor in own.values()), "a model on the meta device holds no values"
    problems = _disagreements(own, tensors)
    if problems:
        raise ArchlabError(f"{source}: does not fit the model: {'; '.join(problems)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _disagreements(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [repr(name) for name in own if name not in given]
    unexpected = [repr(name) for name in given if name not in own]
    unfit = [
        f"{name!r} is {_form(given[name])} and not {_form(own[name])}"
        for name in own
        if name in given and _form(own[name]) != _form(given[name])
    ]
    found = {"missing": missing, "unexpected": unexpected, "different": unfit}
    return [f"{word} {_first_few(names)}" for word, names in found.items() if names]


def _form(tensor: Tensor) -> str:
    return f"{'float' if tensor.is_floating_point() else 'integer'} {list(tensor.shape)}"


def _first_few(names: Sequence[str], few: int = 3) -> str:
    rest = len(names) - few
    return ", ".join(names[:few]) + (f" and {rest} more" if rest > 0 else "")
