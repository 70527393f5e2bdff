"""The knobs that a search varies: what a path means in an experiment, and what may stand there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archlab.config import paths
from archlab.config.domains import Choice, Domain, Interval
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.registry import Component, Slot, find
from archlab.config.schema import Knob, coerce, reject_unknown, union_members
from archlab.errors import ConfigError

_MANY_COMBINATIONS = 10_000


@dataclass(frozen=True)
class SearchParameter:
    """A knob that exists, with the values it may take; `whole` where these are whole numbers."""

    path: str
    domain: Domain
    whole: bool


def sort_by_depth(vary: Mapping[str, Domain | None]) -> list[str]:
    """Return the varied paths, those above before those below, all entries before one of them."""
    return sorted(vary, key=lambda path: (len(parts := paths.split(path)), sum(isinstance(p, int) for p in parts)))


def is_ancestor(path: str, other: str) -> bool:
    """Tell whether one path leads through the other's place."""
    above, below = paths.split(path), paths.split(other)
    return len(above) < len(below) and all(_meet(a, b) for a, b in zip(above, below, strict=False))


def _meet(one: paths.Part, other: paths.Part) -> bool:
    return one == other or (one == "*" and isinstance(other, int)) or (other == "*" and isinstance(one, int))


def resolve_parameter(path: str, domain: Domain | None, raw: UnresolvedExperiment) -> SearchParameter | None:
    """Return the knob that a path means in this experiment, or None where it means none."""
    found = [(place, knob) for place in paths.expand(raw.tree, path) if (knob := raw.knob(place))]
    if not found:
        return None
    if domain is None:
        domain = _declared_domain(path, [place for place, _ in found], raw)
    return SearchParameter(path, domain, _is_whole(found[0][1].type, domain))


def _declared_domain(path: str, places: list[str], raw: UnresolvedExperiment) -> Domain:
    """Return the domain declared beside the component that owns a knob."""
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
    """Return the component whose knob stands at a place."""
    above = paths.join(paths.split(place)[:-1])
    knob, value = raw.knob(above) if above else None, raw.get(above) if above else None
    if knob is None or not isinstance(knob.default, Slot):
        return None
    name = value.get("type") if isinstance(value, Mapping) else value
    return find(knob.default.kind, name or knob.default.default, above)


def _is_whole(kind: Any, domain: Domain) -> bool:
    if not isinstance(domain, Interval):
        return False
    scalars = {member.type for member in union_members(kind)}
    if int in scalars and float not in scalars:
        return True
    ends = [domain.low, domain.high] + ([domain.step] if domain.step is not None else [])
    return float not in scalars and all(isinstance(end, int) for end in ends)


def validate_space(vary: Mapping[str, Domain | None], base: UnresolvedExperiment) -> None:
    """Raise ConfigError for a path that no choices make valid, and for values that cannot stand there."""
    for path in sort_by_depth(vary):
        found = False
        for raw in _branches(path, vary, base):
            varied = resolve_parameter(path, vary[path], raw)
            if varied is not None:
                found = True
                _check_domain(varied, raw)
        if not found:
            raise ConfigError(f"vary.{path}", "there is no such knob, whichever choices are made above it")


def _branches(
    path: str, vary: Mapping[str, Domain | None], base: UnresolvedExperiment
) -> Iterator[UnresolvedExperiment]:
    """Yield the base with every combination of the choices made above a path."""
    above = [other for other in sort_by_depth(vary) if is_ancestor(other, path)]
    situations = [base]
    for other in above:
        situations = [new for raw in situations for new in _with_choices(other, vary[other], raw)]
        if len(situations) > _MANY_COMBINATIONS:
            raise ConfigError(f"vary.{path}", f"more than {_MANY_COMBINATIONS} combinations of choices above it")
    yield from situations


def _with_choices(path: str, domain: Domain | None, raw: UnresolvedExperiment) -> list[UnresolvedExperiment]:
    varied = resolve_parameter(path, domain, raw)
    if varied is None or not isinstance(varied.domain, Choice):
        return [raw]
    return [raw.override({path: value}, "vary") for value in varied.domain.values]


def _check_domain(varied: SearchParameter, raw: UnresolvedExperiment) -> None:
    path, domain = varied.path, varied.domain
    knobs = {place: knob for place in paths.expand(raw.tree, path) if (knob := raw.knob(place))}
    values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    for place, knob in knobs.items():
        for value in values:
            _check_choice(value, knob, place, f"vary.{path}")
    if varied.whole and isinstance(domain, Interval) and domain.step is not None and domain.step != int(domain.step):
        raise ConfigError(f"vary.{path}", f"step is {domain.step}, and the knob takes whole numbers")


def _check_choice(value: Any, knob: Knob, place: str, path: str) -> None:
    slot = knob.default
    if not isinstance(slot, Slot):
        coerce(value, knob.type, path)
    elif slot.many and not place.endswith("]"):
        _check_list(value, slot, path)
    else:
        given = {"type": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            raise ConfigError(path, f"{value!r} is no {slot.kind}: give its name, or a mapping with its type")
        component = find(slot.kind, given.get("type", slot.default), path)
        own = ("type", "repeat") if slot.many else ("type",)
        reject_unknown(given, [*component.knobs, *own], path, owner=component.name)


def _check_list(value: Any, slot: Slot, path: str) -> None:
    if not isinstance(value, list):
        raise ConfigError(path, f"{value!r} is not a list of {slot.kind}s")
