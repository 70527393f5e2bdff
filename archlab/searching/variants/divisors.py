"""Ranges of whole numbers that divide the value of another knob, such as heads of a width."""

from __future__ import annotations

import math
from typing import Any

from archlab.config.domains import Choice, Interval
from archlab.errors import ConfigError
from archlab.searching.failures import InfeasibleTrial
from archlab.searching.variants.variant import MISSING, Variant


class NoValue(InfeasibleTrial):
    """A domain that has no value, whatever it refers to being as it is."""


def divisors(path: str, domain: Interval, variant: Variant) -> Choice:
    """Return the numbers of a range that divide the value it names, in each of the layers that a path stands for.

    Raises NoValue if there is none, and ConfigError where the value is not a whole number.
    """
    assert domain.divides is not None
    own = variant.knobs(path)
    places = {other for place in own for other in variant.referenced_places(path, place, domain.divides)}
    values = {place: variant.value(place) for place in places if variant.value(place) is not MISSING}
    for place, value in values.items():
        _require_whole(value, path, place)
    whole = math.gcd(*values.values())
    step = int(domain.step or 1)
    found = [n for n in range(int(domain.low), min(int(domain.high), whole) + 1, step) if whole % n == 0]
    if not values or not found:
        of = f"{domain.divides} {whole}" if values else f"{domain.divides}, which is not there"
        raise NoValue(f"{path}: no number of {domain.low:g} to {domain.high:g} divides {of}")
    return Choice(tuple(found))


def _require_whole(value: Any, path: str, place: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"vary.{path}", f"divides: {place} is {value!r}, not a whole number from 1")
