"""The parameters of a search: the knobs that a path refers to, and the values that they may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archlab.config import paths, renames
from archlab.config.domains import Choice, Domain, Interval
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.registry import Component, Slot, find
from archlab.config.schema import Knob, coerce, reject_unknown, union_members
from archlab.errors import ConfigError

_MAX_COMBINATIONS = 10_000


@dataclass(frozen=True)
class SearchParameter:
    """A knob that exists in an experiment, with its domain; `is_integer` if the values are integers."""

    path: str
    domain: Domain
    is_integer: bool


def sort_by_depth(vary: Mapping[str, Domain | None]) -> list[str]:
    """Return the varied paths, ancestors before descendants, and `layers[*]` before `layers[0]`."""
    return sorted(vary, key=lambda path: (len(parts := paths.split(path)), sum(isinstance(p, int) for p in parts)))


def is_ancestor(path: str, other: str) -> bool:
    """Whether one path is a proper prefix of another, `[*]` standing for any index."""
    above, below = paths.split(path), paths.split(other)
    return len(above) < len(below) and all(_matches(a, b) for a, b in zip(above, below, strict=False))


def _matches(one: paths.Part, other: paths.Part) -> bool:
    return one == other or (one == "*" and isinstance(other, int)) or (other == "*" and isinstance(one, int))


def resolve_parameter(path: str, domain: Domain | None, raw: UnresolvedExperiment) -> SearchParameter | None:
    """Return the parameter that a path refers to in an experiment, or None if there is no such knob."""
    knobs = _knobs(path, raw)
    if not knobs:
        return None
    if domain is None:
        domain = _declared_domain(path, list(knobs), raw)
    return SearchParameter(path, domain, _is_integer(next(iter(knobs.values())).type, domain))


def _knobs(path: str, raw: UnresolvedExperiment) -> dict[str, Knob]:
    """Return the knobs that a path refers to, several if it contains `[*]`, by their own paths."""
    return {place: knob for place in paths.expand(raw.tree, path) if (knob := raw.knob(place))}


def _declared_domain(path: str, places: list[str], raw: UnresolvedExperiment) -> Domain:
    """Return the domain that the component of a knob declares."""
    owners = [_owner(place, raw) for place in places]
    knob = str(paths.split(path)[-1])
    domains = {owner.search.get(knob) if owner else None for owner in owners}
    if None in domains:
        of = next((f" beside {o.kind} {o.name!r}" for o in owners if o and knob not in o.search), "")
        raise ConfigError(f"vary.{path}", f"auto: no domain is declared{of}; write choices, or {{low, high}}")
    if len(domains) > 1:
        raise ConfigError(f"vary.{path}", "auto: the layers declare different domains; write choices, or {low, high}")
    return next(iter(domains))  # type: ignore[return-value]


def _owner(place: str, raw: UnresolvedExperiment) -> Component | None:
    """Return the component that the knob at a path belongs to."""
    above = paths.join(paths.split(place)[:-1])
    knob, value = raw.knob(above) if above else None, raw.get(above) if above else None
    if knob is None or not isinstance(knob.default, Slot):
        return None
    name = value.get("type") if isinstance(value, Mapping) else value
    return find(knob.default.kind, name or knob.default.default, above)


def _is_integer(kind: Any, domain: Domain) -> bool:
    if not isinstance(domain, Interval):
        return False
    scalars = {member.type for member in union_members(kind)}
    if int in scalars and float not in scalars:
        return True
    ends = [domain.low, domain.high] + ([domain.step] if domain.step is not None else [])
    return float not in scalars and all(isinstance(end, int) for end in ends)


def validate_space(vary: Mapping[str, Domain | None], base: UnresolvedExperiment) -> None:
    """Raise ConfigError for a path that does not exist whatever the choices, and for invalid values."""
    for path in sort_by_depth(vary):
        exists = False
        for raw in _branches(path, vary, base):
            parameter = resolve_parameter(path, vary[path], raw)
            if parameter is not None:
                exists = True
                _check_domain(parameter, raw)
        if not exists:
            raise ConfigError(f"vary.{path}", "there is no such knob, whichever choices are made above it")


def _branches(
    path: str, vary: Mapping[str, Domain | None], base: UnresolvedExperiment
) -> Iterator[UnresolvedExperiment]:
    """Yield the base experiment with every combination of the choices above a path."""
    above = [other for other in sort_by_depth(vary) if is_ancestor(other, path)]
    branches = [base]
    for other in above:
        branches = [new for raw in branches for new in _with_choices(other, vary[other], raw)]
        if len(branches) > _MAX_COMBINATIONS:
            raise ConfigError(f"vary.{path}", f"more than {_MAX_COMBINATIONS} combinations of choices above it")
    yield from branches


def _with_choices(path: str, domain: Domain | None, raw: UnresolvedExperiment) -> list[UnresolvedExperiment]:
    parameter = resolve_parameter(path, domain, raw)
    if parameter is None or not isinstance(parameter.domain, Choice):
        return [raw]
    return [raw.override({path: value}, "vary") for value in parameter.domain.values]


def _check_domain(parameter: SearchParameter, raw: UnresolvedExperiment) -> None:
    path, domain = parameter.path, parameter.domain
    values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    for place, knob in _knobs(path, raw).items():
        for value in values:
            _check_choice(value, knob, place, f"vary.{path}")
    step = domain.step if isinstance(domain, Interval) else None
    if parameter.is_integer and step is not None and step != int(step):
        raise ConfigError(f"vary.{path}", f"step is {step}, and the knob takes whole numbers")


def _check_choice(value: Any, knob: Knob, place: str, path: str) -> None:
    slot = knob.default
    if not isinstance(slot, Slot):
        coerce(value, knob.type, path)
    elif slot.many and not place.endswith("]"):
        _check_list(value, slot, path)
    else:
        entry = {"type": value} if isinstance(value, str) else value
        if not isinstance(entry, Mapping):
            raise ConfigError(path, f"{value!r} is no {slot.kind}: give its name, or a mapping with its type")
        component = find(slot.kind, entry.get("type", slot.default), path)
        own = ("type", "repeat") if slot.many else ("type",)
        renamed = renames.current().knobs_of(component.kind, component.name)
        reject_unknown(entry, [*component.knobs, *own], path, component.name, renamed)


def _check_list(value: Any, slot: Slot, path: str) -> None:
    if not isinstance(value, list):
        raise ConfigError(path, f"{value!r} is not a list of {slot.kind}s")
