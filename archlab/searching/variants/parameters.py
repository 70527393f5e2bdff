"""The parameters of a search: the knobs that a path refers to, and the values that they may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.config import paths
from archlab.config.domains import Domain, Interval
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.registry import Component, Slot, find
from archlab.config.schema import union_members
from archlab.errors import ConfigError
from archlab.searching.variants.divisors import divisors
from archlab.searching.variants.variant import Variant


@dataclass(frozen=True)
class SearchParameter:
    """A knob that exists in an experiment, with its domain; `is_integer` if the values are integers."""

    path: str
    domain: Domain
    is_integer: bool


def resolve_parameter(path: str, domain: Domain | None, variant: Variant) -> SearchParameter | None:
    """Return the parameter that a path refers to in an experiment, or None if there is no such knob.

    Raises NoValue where nothing in the range divides.
    """
    knobs = variant.knobs(path)
    if not knobs:
        return None
    if domain is None:
        domain = _declared_domain(path, list(knobs), variant.raw)
    if isinstance(domain, Interval) and domain.divides is not None:
        domain = divisors(path, domain, variant)
    return SearchParameter(path, domain, _is_integer(next(iter(knobs.values())).type, domain))


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
