"""Helpers of several formats: parameter names below a module, and knobs of YAML data that may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import KeyMap


def prefix(module: str, ours: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return one or several names below a module of the model."""
    return f"{module}.{ours}" if isinstance(ours, str) else tuple(f"{module}.{name}" for name in ours)


def layer_keys(num_layers: int, theirs: str, parts: Mapping[str, str | tuple[str, ...]]) -> KeyMap:
    """Return the key map of every layer, `theirs.0`, `theirs.1`, ..., from the names within one layer."""
    layers = range(num_layers)
    return {f"{theirs}.{i}.{name}": prefix(f"blocks.{i}", ours) for i in layers for name, ours in parts.items()}


def rows_in_turn(sizes: Mapping[str, int], times: int) -> tuple[str, ...]:
    """Return the names of a tensor's rows, which are so many of each parameter in turn: of each head, for one."""
    return tuple(f"{name}[{i * size}:{(i + 1) * size}]" for i in range(times) for name, size in sizes.items())


def knob(tree: Mapping[str, Any], part: str, name: str, default: Any) -> Any:
    """Return a knob of a part, or the default where part or knob is missing."""
    return tree.get(part, {}).get(name, default)


def first_mixer(model: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the mixer of a model's first layer; raise ArchlabError where it is of another kind."""
    mixer: dict[str, Any] = model["layers"][0]["mixer"]
    if mixer["type"] != kind:
        raise ArchlabError(f"layers[0].mixer.type is {kind!r} there and {mixer['type']!r} here")
    return mixer


def num_layers(model: Mapping[str, Any]) -> int:
    """Return the number of layers of a model's YAML data, repeats included."""
    return sum(layer.get("repeat", 1) for layer in model["layers"])
