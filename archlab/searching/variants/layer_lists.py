"""Lists of layers in an experiment's YAML: with every layer by itself, with runs of equal ones in one, and resized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from archlab.config.experiment import UnresolvedExperiment
from archlab.config.registry import Slot
from archlab.config.schema import coerce
from archlab.config.spec import REPEAT
from archlab.errors import ConfigError


def is_layer_list(path: str, raw: UnresolvedExperiment) -> bool:
    """Whether a path without wildcards is that of a list of components."""
    knob = raw.knob(path)
    return knob is not None and isinstance(knob.default, Slot) and knob.default.many


def unroll(raw: UnresolvedExperiment, path: str, source: str) -> UnresolvedExperiment:
    """Return the experiment with an entry for each layer of a list, none repeated."""
    entries = layer_entries(raw, path)
    return raw if entries == raw.get(path) else raw.override({path: entries}, source)


def layer_entries(raw: UnresolvedExperiment, path: str) -> list[Any]:
    """Return the entries of a list, each as often as it is repeated; raise ConfigError where there is no list."""
    entries = raw.get(path)
    if not is_layer_list(path, raw) or not isinstance(entries, list) or not entries:
        raise ConfigError(path, "is not a list of layers")
    repeats = [_repeat(entry, f"{path}[{index}]") for index, entry in enumerate(entries)]
    return [_once(entry) for entry, repeat in zip(entries, repeats, strict=True) for _ in range(repeat)]


def _repeat(entry: Any, path: str) -> int:
    repeat = entry.get(REPEAT.name, REPEAT.default) if isinstance(entry, Mapping) else REPEAT.default
    count: int = coerce(repeat, REPEAT.type, f"{path}.{REPEAT.name}")
    return count


def _once(entry: Any) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    return {key: deepcopy(value) for key, value in entry.items() if key != REPEAT.name}


def roll(raw: UnresolvedExperiment, path: str, source: str) -> UnresolvedExperiment:
    """Return the experiment with one entry for each run of equal layers in a list, repeated as often."""
    if f"${{{path}[" in str(raw.tree):  # an interpolation counts the entries
        return raw
    entries = merge_repeats(layer_entries(raw, path))
    return raw if entries == raw.get(path) else raw.override({path: entries}, source)


def merge_repeats(layers: Sequence[Any]) -> list[Any]:
    """Merge each run of equal layers into one entry with `repeat`."""
    runs: list[tuple[Any, int]] = []
    for layer in layers:
        if runs and runs[-1][0] == layer:
            runs[-1] = (layer, runs[-1][1] + 1)
        else:
            runs.append((layer, 1))
    return [_with_repeat(layer, count) for layer, count in runs]


def _with_repeat(layer: Any, count: int) -> Any:
    if count == 1:
        return layer
    return {REPEAT.name: count, **(layer if isinstance(layer, Mapping) else {"type": layer})}


def resize(layers: Sequence[Any], number: int) -> list[Any]:
    """Return as many layers as asked for, each of the given ones in its place and in proportion."""
    return [deepcopy(layers[index * len(layers) // number]) for index in range(number)]
