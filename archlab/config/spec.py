"""Specs: validated components with their knobs, a tree of data from which a model is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from archlab.config import renames
from archlab.config.domains import Count
from archlab.config.registry import Component, Factory, Slot, find, names
from archlab.config.schema import REQUIRED, Knob, coerce, reject_unknown, settings_to_plain
from archlab.errors import ConfigError, list_names, one_line
from archlab.text import with_article

MAX_REPEATS = 4096  # of layers: a typo is an error instead of a model that never finishes building
REPEAT = Knob("repeat", Count, 1)


@dataclass(frozen=True)
class Spec:
    """A component with the values of all its knobs; a knob that takes components holds a Spec or a list of Specs."""

    component: Component
    knobs: Mapping[str, Any]
    path: str
    repeat: int = 1

    @property
    def kind(self) -> str:
        """The kind of the component."""
        return self.component.kind

    @property
    def name(self) -> str:
        """The component's name in YAML."""
        return self.component.name

    def factory(self) -> Factory:
        """Return a callable that takes the wiring and builds this component and all below it."""
        return _Factory(self)

    def to_plain(self) -> dict[str, Any]:
        """Return the spec as YAML data with all defaults written out."""
        plain = {"type": self.name} if self.repeat == 1 else {"repeat": self.repeat, "type": self.name}
        return plain | {name: _plain(value) for name, value in self.knobs.items()}

    def walk(self) -> Iterator[Spec]:
        """Yield this spec and all specs below it, parents first."""
        yield self
        for value in self.knobs.values():
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, Spec):
                    yield from child.walk()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, Spec):
        return value.to_plain()
    return settings_to_plain(value) if is_dataclass(value) and not isinstance(value, type) else value


@dataclass(frozen=True)
class _Factory:
    spec: Spec

    def __call__(self, *wiring: Any) -> Any:
        knobs = {name: _factories(value) for name, value in self.spec.knobs.items()}
        try:
            return self.spec.component.cls(*wiring, **knobs)
        except ConfigError:  # of a component below, which names its own path
            raise
        except Exception as error:  # whatever a constructor raises, a user's plugin included, names its YAML path
            raise ConfigError(self.spec.path, f"{self.spec.name}: {one_line(error)}") from error


def _factories(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.factory()
    if isinstance(value, list) and any(isinstance(entry, Spec) for entry in value):
        return [entry.factory() for entry in value for _ in range(entry.repeat)]
    return value


def parse(value: Any, kind: str, path: str, default: str | None = None) -> Spec:
    """Parse a component's YAML, a name or a mapping with `type`, and validate it against the constructor."""
    values = _to_mapping(value, kind, path)
    name = values.pop("type", None)
    name = default if name is None else name
    if name is None:
        raise ConfigError(path, f"a {kind} needs a type: one of {list_names(names(kind))}")
    component = find(kind, name, path)
    reject_unknown(values, list(component.knobs), path, name, renames.current().knobs_of(kind, name))
    knobs = {knob.name: _parse_knob(knob, values, path, name) for knob in component.knobs.values()}
    return Spec(component, knobs, path)


def _to_mapping(value: Any, kind: str, path: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(path, f"{value!r} is not {with_article(kind)}: give its name, or a mapping with its type")


def _parse_knob(knob: Knob, values: Mapping[str, Any], path: str, owner: str) -> Any:
    knob_path = f"{path}.{knob.name}"
    if isinstance(knob.default, Slot):
        return _parse_slot(knob, values, knob_path, owner)
    if knob.name in values:
        return coerce(values[knob.name], knob.type, knob_path)
    if knob.default is REQUIRED:
        raise ConfigError(path, f"{owner!r} needs {knob.name!r}: {knob.type_name}")
    return knob.default


def _parse_slot(knob: Knob, values: Mapping[str, Any], path: str, owner: str) -> Any:
    slot: Slot = knob.default
    value = values.get(knob.name, {"type": slot.default} if slot.default else None)
    if slot.many:
        return _parse_list(values.get(knob.name), slot, path)
    if value is None:
        raise ConfigError(path, f"{owner!r} needs a {slot.kind}: one of {list_names(names(slot.kind))}")
    return parse(value, slot.kind, path, slot.default)


def _parse_list(value: Any, slot: Slot, path: str) -> list[Spec]:
    if not isinstance(value, list) or not value:
        raise ConfigError(path, f"{value!r} is not a list of one or more {slot.kind}s")
    specs = [_parse_entry(entry, slot, f"{path}[{index}]") for index, entry in enumerate(value)]
    if sum(spec.repeat for spec in specs) > MAX_REPEATS:
        raise ConfigError(path, f"more than {MAX_REPEATS} {slot.kind}s")
    return specs


def _parse_entry(value: Any, slot: Slot, path: str) -> Spec:
    values = _to_mapping(value, slot.kind, path)
    repeat = coerce(values.pop("repeat", REPEAT.default), REPEAT.type, f"{path}.repeat")
    spec = parse(values, slot.kind, path, slot.default)
    return Spec(spec.component, spec.knobs, path, repeat)


def knob_at(tree: Mapping[str, Any], parts: list[str | int], kind: str, default: str | None = None) -> Knob | None:
    """Return the knob at a path below a component's YAML, or None if there is no such knob."""
    value = tree if isinstance(tree, Mapping) else {"type": tree}
    name = value.get("type") or default
    if not isinstance(name, str) or name not in names(kind) or not parts:
        return None
    knob = find(kind, name).knobs.get(str(parts[0]))
    rest = parts[1:]
    return knob if knob is None or not rest else _knob_below(knob, value.get(knob.name) or {}, rest)


def _knob_below(knob: Knob, value: Any, parts: list[str | int]) -> Knob | None:
    slot = knob.default
    if not isinstance(slot, Slot):
        return None
    if not slot.many:
        return knob_at(value, parts, slot.kind, slot.default)
    index, *rest = parts
    if not isinstance(index, int) or not isinstance(value, list) or index >= len(value):
        return None
    if rest == [REPEAT.name]:
        return REPEAT
    return knob_at(value[index], rest, slot.kind, slot.default) if rest else knob
