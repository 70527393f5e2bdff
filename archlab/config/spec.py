"""A checked choice of component and knobs, not yet built: a tree of data that becomes a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archlab.config import renames
from archlab.config.domains import Count
from archlab.config.registry import Component, Factory, Slot, find, names
from archlab.config.schema import REQUIRED, Knob, coerce, reject_unknown
from archlab.errors import ConfigError, one_line

MAX_REPEATS = 4096
REPEAT = Knob("repeat", Count, 1)


@dataclass(frozen=True)
class Spec:
    """One component with all of its knobs; a knob that is a component holds a Spec, or a list of them."""

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
        """What YAML calls the component."""
        return self.component.name

    def factory(self) -> Factory:
        """Return the callable of the wiring that builds this component and all below it."""
        return _Factory(self)

    def to_plain(self) -> dict[str, Any]:
        """Return the YAML data that says the same, every default written out."""
        plain = {"type": self.name} if self.repeat == 1 else {"repeat": self.repeat, "type": self.name}
        return plain | {name: _plain(value) for name, value in self.knobs.items()}

    def walk(self) -> Iterator[Spec]:
        """Yield this spec and all below it, parents first."""
        yield self
        for value in self.knobs.values():
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, Spec):
                    yield from child.walk()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value.to_plain() if isinstance(value, Spec) else value


@dataclass(frozen=True)
class _Factory:
    spec: Spec

    def __call__(self, *wiring: Any) -> Any:
        knobs = {name: _factories(value) for name, value in self.spec.knobs.items()}
        try:
            return self.spec.component.cls(*wiring, **knobs)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(self.spec.path, f"{self.spec.name}: {one_line(error)}") from error


def _factories(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.factory()
    if isinstance(value, list) and any(isinstance(entry, Spec) for entry in value):
        return [entry.factory() for entry in value for _ in range(entry.repeat)]
    return value


def parse(value: Any, kind: str, path: str, default: str | None = None) -> Spec:
    """Check a component's YAML, a name or a mapping with its `type`, against its constructor."""
    given = _mapping(value, kind, path)
    name = given.pop("type", None)
    name = default if name is None else name
    if name is None:
        raise ConfigError(path, f"a {kind} needs a type: one of {', '.join(names(kind))}")
    component = find(kind, name, path)
    reject_unknown(given, list(component.knobs), path, name, renames.current().knobs_of(kind, name))
    knobs = {knob.name: _knob(knob, given, path, name) for knob in component.knobs.values()}
    return Spec(component, knobs, path)


def _mapping(value: Any, kind: str, path: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(path, f"{value!r} is no {kind}: give its name, or a mapping with its type")


def _knob(knob: Knob, given: Mapping[str, Any], path: str, owner: str) -> Any:
    place = f"{path}.{knob.name}"
    if isinstance(knob.default, Slot):
        return _slot(knob, given, place, owner)
    if knob.name in given:
        return coerce(given[knob.name], knob.type, place)
    if knob.default is REQUIRED:
        raise ConfigError(path, f"{owner!r} needs {knob.name!r}: {knob.type_name}")
    return knob.default


def _slot(knob: Knob, given: Mapping[str, Any], place: str, owner: str) -> Any:
    slot: Slot = knob.default
    value = given.get(knob.name, {"type": slot.default} if slot.default else None)
    if slot.many:
        return _list(given.get(knob.name), slot, place)
    if value is None:
        raise ConfigError(place, f"{owner!r} needs a {slot.kind}: one of {', '.join(names(slot.kind))}")
    return parse(value, slot.kind, place, slot.default)


def _list(value: Any, slot: Slot, place: str) -> list[Spec]:
    if not isinstance(value, list) or not value:
        raise ConfigError(place, f"{value!r} is not a list of one or more {slot.kind}s")
    specs = [_entry(entry, slot, f"{place}[{number}]") for number, entry in enumerate(value)]
    if sum(spec.repeat for spec in specs) > MAX_REPEATS:
        raise ConfigError(place, f"more than {MAX_REPEATS} {slot.kind}s")
    return specs


def _entry(value: Any, slot: Slot, path: str) -> Spec:
    given = _mapping(value, slot.kind, path)
    repeat = coerce(given.pop("repeat", REPEAT.default), REPEAT.type, f"{path}.repeat")
    spec = parse(given, slot.kind, path, slot.default)
    return Spec(spec.component, spec.knobs, path, repeat)


def knob_at(tree: Mapping[str, Any], parts: list[str | int], kind: str, default: str | None = None) -> Knob | None:
    """Return the knob that a place below a component's YAML would set, or None if there is no such knob."""
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
    place, *rest = parts
    if not isinstance(place, int) or not isinstance(value, list) or place >= len(value):
        return None
    if rest == [REPEAT.name]:
        return REPEAT
    return knob_at(value[place], rest, slot.kind, slot.default) if rest else knob
