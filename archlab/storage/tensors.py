"""Named tensors of modules, and safetensors files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def read_tensors(file: Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file; raise ArchlabError naming the file, and the tensor if one is wrong.

    `mapped` tensors take no memory of their own: the caller copies what it needs, and drops them.
    """
    read_header(file)
    try:
        tensors = load_file(file)
        # The loaded tensors map the file, which the process may replace while it uses them.
        return tensors if mapped else {name: tensor.clone() for name, tensor in tensors.items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ArchlabError(f"{file}: truncated, or not a safetensors file: {one_line(error)}") from error


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy tensors into a model that is not divided; raise ArchlabError, changing nothing, unless they fit it."""
    own = named_tensors(model)
    assert not any(tensor.is_meta for tensor in own.values()), "a model on the meta device holds no values"
    fit = fit_tensors(own, tensors)
    if not fit.is_exact:
        raise ArchlabError(f"{source}: does not fit the model: {fit}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


@dataclass(frozen=True)
class TensorFit:
    """How stored tensors fit those of a model: by name those that match, are missing, are left over, or differ.

    `different` maps the name of a tensor of another kind or shape to a description of both.
    """

    matching: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    different: Mapping[str, str]

    @property
    def is_exact(self) -> bool:
        """Whether every tensor of one is there in the other, with the same kind and shape."""
        return not (self.missing or self.unexpected or self.different)

    def __str__(self) -> str:
        different = [f"{name!r} is {difference}" for name, difference in self.different.items()]
        problems = {"missing": _quote(self.missing), "unexpected": _quote(self.unexpected), "different": different}
        return "; ".join(f"{problem} {_first_few(names)}" for problem, names in problems.items() if names)


def fit_tensors(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> TensorFit:
    """Compare stored tensors with those of a model by name, kind and shape."""
    both = [name for name in own if name in stored]
    different = {
        name: f"{_describe(stored[name])} and not {_describe(own[name])}"
        for name in both
        if _describe(own[name]) != _describe(stored[name])
    }
    return TensorFit(
        matching=tuple(name for name in both if name not in different),
        missing=tuple(name for name in own if name not in stored),
        unexpected=tuple(name for name in stored if name not in own),
        different=different,
    )


def _quote(names: Sequence[str]) -> list[str]:
    return [repr(name) for name in names]


def _describe(tensor: Tensor) -> str:
    return f"{'float' if tensor.is_floating_point() else 'integer'} {list(tensor.shape)}"


def _first_few(names: Sequence[str], few: int = 3) -> str:
    rest = len(names) - few
    return ", ".join(names[:few]) + (f" and {rest} more" if rest > 0 else "")
