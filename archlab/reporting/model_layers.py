"""A model's layers, from the data of its experiment: equal ones grouped, and the components of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from archlab.reporting.format import brief

_REPEAT = "repeat"


@dataclass(frozen=True)
class Line:
    """A component of a layer: where it stands, its name, and its own knobs as text."""

    path: tuple[str, ...]
    name: str
    knobs: Mapping[str, str]


@dataclass(frozen=True)
class LayerList:
    """A list of a model's layers, repeats expanded, and the components before and after it in the model."""

    slot: str
    layers: tuple[Mapping[str, Any], ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass
class Kinds:
    """The different layers of several models, numbered in the order in which they are met."""

    trees: list[Mapping[str, Any]] = field(default_factory=list)

    def number(self, layer: Mapping[str, Any]) -> int:
        """Return the number of a layer's kind."""
        if layer not in self.trees:
            self.trees.append(layer)
        return self.trees.index(layer)


def letter(kind: int) -> str:
    """Return the letters of a kind: A, B, ... Z, AA, AB."""
    rest, last = divmod(kind, 26)
    return (letter(rest - 1) if rest else "") + chr(ord("A") + last)


def layer_lists(model: Mapping[str, Any]) -> list[LayerList]:
    """Return the outermost lists of components in a resolved model, in their order."""
    lists = list(_lists(model))
    slots = {slot for slot, _ in lists}
    first, last = (lists[0][0], lists[-1][0]) if lists else ("", "")
    keys = [key for key, value in model.items() if key in slots or _is_component(value)]
    names = {key: str(model[key]["type"]) for key in keys if key not in slots and model[key]["type"] != "none"}
    before = tuple(names[key] for key in keys[: _index(keys, first)] if key in names)
    after = tuple(names[key] for key in keys[_index(keys, last) :] if key in names)
    return [
        LayerList(slot, layers, before if slot == first else (), after if slot == last else ())
        for slot, layers in lists
    ]


def _index(keys: Sequence[str], key: str) -> int:
    return keys.index(key) if key in keys else len(keys)


def _lists(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[Mapping[str, Any], ...]]]:
    for key, value in node.items():
        if is_components(value):
            yield f"{prefix}{key}", tuple(_without_repeat(one) for one in value for _ in range(one.get(_REPEAT, 1)))
        elif isinstance(value, Mapping):
            yield from _lists(value, f"{prefix}{key}.")


def is_components(value: Any) -> bool:
    """Return whether a value of a resolved model is a list of components, such as its layers."""
    return isinstance(value, list) and bool(value) and all(map(_is_component, value))


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "type" in value


def _without_repeat(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in layer.items() if key != _REPEAT}


def layer_lines(layer: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Line]:
    """Yield the components of a layer from the outside to the inside; components called `none` are left out."""
    if layer["type"] == "none":
        return
    own = {key: value for key, value in layer.items() if key != "type" and not isinstance(value, Mapping | list)}
    yield Line(path, str(layer["type"]), {key: brief(value) for key, value in own.items() if value is not None})
    for key, value in layer.items():
        for one in value if isinstance(value, list) else [value]:
            if _is_component(one):
                yield from layer_lines(one, (*path, key))
