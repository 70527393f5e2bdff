"""The two kinds of formats of other libraries, and how a format is found by the name of its file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from torch import Tensor, nn

from archlab.errors import ArchlabError, did_you_mean
from archlab.interop._tensors import Layout

Fields: TypeAlias = Mapping[str, Any]
KeyMap: TypeAlias = dict[str, str | tuple[str, ...]]
_FORMAT = "FORMAT"


@dataclass(frozen=True)
class StateDictFormat:
    """An implementation whose state dict can be loaded, given its configuration.

    `load(config, tensors)` returns archlab's model, `names(model)` its parameter for each name in their state dict.
    """

    load: Callable[[Fields, Mapping[str, Tensor]], nn.Module]
    names: Callable[[nn.Module], dict[str, nn.Parameter]]


@dataclass(frozen=True)
class CheckpointFormat:
    """One `model_type` of transformers, as a mapping of its config.json and its tensors to archlab's models and back.

    - `architecture`: the class that transformers loads such a checkpoint with.
    - `fields`: the fields of config.json that are read, with transformers' defaults.
    - `to_archlab_config(fields)`: the YAML data of the model.
    - `to_hf_config(model)`: the fields closest to a model's YAML data; the caller verifies that they describe it.
    - `key_map(fields)`: archlab's parameter or buffer for each of their tensors; several if theirs concatenates them on
      axis 0. Of a parameter, `name[3]` is entry 3 of axis 0, `name[3:7]` entries 3 to 6, and `name[T]` the transpose.
    - `fixed`: fields that are supported at some values only, the first being the default.
    - `ignored`: fields that do not affect the function.
    - `unread(fields, name)`: whether a tensor of theirs belongs to a part that the class leaves out; no tensor if None.
    - `other_name(name)`: another name that some files have for a tensor of the key map; none if None.
    - `aliases`: other names that transformers reads a field by.
    - `from_hf(name, tensor)`, `to_hf(name, tensor)`: a tensor's layout; the same in both libraries if None.
    """

    architecture: str
    fields: Fields
    to_archlab_config: Callable[[Fields], dict[str, Any]]
    to_hf_config: Callable[[Fields], dict[str, Any]]
    key_map: Callable[[Fields], KeyMap]
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    unread: Callable[[Fields, str], bool] | None = None
    other_name: Callable[[str], str] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    from_hf: Layout | None = None
    to_hf: Layout | None = None


Format = TypeVar("Format", StateDictFormat, CheckpointFormat)


def format_names(package: str) -> list[str]:
    """Return the names of a package's formats: its files without a leading underscore."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def find_format(package: str, name: object, expected: type[Format], *, noun: str, source: str = "") -> Format:
    """Return `FORMAT` of a package's file; raise ArchlabError naming `noun` and `source` if there is none."""
    known = format_names(package)
    if not isinstance(name, str) or name not in known:
        where = f"{source}: " if source else ""
        raise ArchlabError(f"{where}no {noun} {name!r}{did_you_mean(name, known)}")
    found = getattr(importlib.import_module(f"{package}.{name}"), _FORMAT, None)
    if not isinstance(found, expected):
        raise TypeError(f"{package}.{name}: needs a {_FORMAT} of type {expected.__name__}")
    return found
