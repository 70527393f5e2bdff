"""Named tensors of modules, and safetensors files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from archlab.errors import ArchlabError, one_line
from archlab.runtime.private_apis import COMPILED_PREFIX
from archlab.storage.safetensors_header import read_header


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name; a tied one is listed once, under its first name."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        named.setdefault(id(tensor), (name.replace(COMPILED_PREFIX, ""), tensor))
    return dict(named.values())


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any device to a safetensors file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file, metadata)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raise ArchlabError naming the file, and the tensor if one is wrong."""
    read_header(file)
    try:
        # The loaded tensors map the file, which the process may replace while it uses them.
        return {name: tensor.clone() for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ArchlabError(f"{file}: truncated, or not a safetensors file: {one_line(error)}") from error


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy tensors into a model; raise ArchlabError, changing nothing, unless names and shapes match."""
    own = named_tensors(model)
    assert not any(tensor.is_meta for tensor in own.values()), "a model on the meta device holds no values"
    problems = _mismatches(own, tensors)
    if problems:
        raise ArchlabError(f"{source}: does not fit the model: {'; '.join(problems)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _mismatches(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    missing = [repr(name) for name in own if name not in tensors]
    unexpected = [repr(name) for name in tensors if name not in own]
    different = [
        f"{name!r} is {_describe(tensors[name])} and not {_describe(own[name])}"
        for name in own
        if name in tensors and _describe(own[name]) != _describe(tensors[name])
    ]
    problems = {"missing": missing, "unexpected": unexpected, "different": different}
    return [f"{problem} {_first_few(names)}" for problem, names in problems.items() if names]


def _describe(tensor: Tensor) -> str:
    return f"{'float' if tensor.is_floating_point() else 'integer'} {list(tensor.shape)}"


def _first_few(names: Sequence[str], few: int = 3) -> str:
    rest = len(names) - few
    return ", ".join(names[:few]) + (f" and {rest} more" if rest > 0 else "")
