"""Differences between the experiments of several models: components, their knobs, and settings, by YAML path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from archlab.reporting.format import brief
from archlab.reporting.model_layers import Line, is_components, layer_lines, layer_lists

_ABSENT = "none"


@dataclass(frozen=True)
class Difference:
    """A YAML path at which models differ, and the value of each."""

    path: str
    values: tuple[str, ...]


def differences(experiments: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Return the differences between resolved experiments: their models, then task and settings of training.

    Lists of layers are written out, so that two ways to write one model are no difference.
    """
    found = [*_models([each["model"] for each in experiments])]
    for section in ("task", "train"):
        found += _settings(section, [each[section] for each in experiments])
    return found


def _models(models: Sequence[Mapping[str, Any]]) -> Iterator[Difference]:
    lists = [{each.slot: each.layers for each in layer_lists(model)} for model in models]
    slots = list(dict.fromkeys(slot for each in lists for slot in each))
    yield from _parts("model", [(_without_lists(model),) for model in models])
    for slot in slots:
        layers = [each.get(slot, ()) for each in lists]
        yield from _rows(f"model.{slot}", [str(len(each)) for each in layers], "number of layers")
        yield from _parts(f"model.{slot}[*]", layers)


def _without_lists(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model without its lists of layers, which are compared layer by layer."""
    kept = {key: value for key, value in node.items() if not is_components(value)}
    return {key: _without_lists(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def _parts(path: str, stacks: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[Difference]:
    """Yield where stacks of layers differ, component by component: its type with all knobs, or the knobs alone."""
    drawn = [[{line.path: line for line in layer_lines(layer)} for layer in stack] for stack in stacks]
    replaced: list[tuple[str, ...]] = []
    for place in dict.fromkeys(place for stack in drawn for layer in stack for place in layer):
        if any(place[: len(above)] == above for above in replaced):
            continue  # parts of a component that others do not have
        lines = [[layer.get(place) for layer in stack] for stack in drawn]
        where = ".".join((path, *place))
        if len({_runs(map(_type, stack)) for stack in lines}) > 1:
            replaced.append(place)
            yield Difference(where, tuple(_runs(map(_whole, stack)) for stack in lines))
            continue
        for knob in dict.fromkeys(name for stack in lines for line in stack if line for name in line.knobs):
            values = [_runs(line.knobs.get(knob, "") for line in stack if line) for stack in lines]
            yield from _rows(f"{where}.{knob}", values)


def _rows(path: str, values: Sequence[str], what: str = "") -> Iterator[Difference]:
    if len(set(values)) > 1:
        yield Difference(f"{path} ({what})" if what else path, tuple(values))


def _type(line: Line | None) -> str:
    return line.name if line else _ABSENT


def _whole(line: Line | None) -> str:
    if line is None or not line.knobs:
        return _type(line)
    return f"{line.name} ({', '.join(f'{key} {value}' for key, value in line.knobs.items())})"


def _runs(values: Iterator[str]) -> str:
    """Return the kinds of layers from first to last, equal neighbors counted: 2 x mamba, attention."""
    runs = [(value, len([*alike])) for value, alike in groupby(values)]
    if len(runs) == 1:
        return runs[0][0]
    return ", ".join(value if count == 1 else f"{count} x {value}" for value, count in runs)


def _settings(path: str, trees: Sequence[Mapping[str, Any]]) -> Iterator[Difference]:
    for key in dict.fromkeys(key for tree in trees for key in tree):
        inner = [tree.get(key) for tree in trees]
        if all(isinstance(each, Mapping) for each in inner):
            yield from _settings(f"{path}.{key}", inner)  # type: ignore[arg-type]  # they are mappings
        else:
            yield from _rows(f"{path}.{key}", [brief(each) for each in inner])
