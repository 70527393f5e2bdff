"""Formatted values of the varied knobs: those of trials, and of the base experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.searching.sampling.trial_values import base_number
from archlab.searching.space.search_space import Space
from archlab.searching.variants import selectors
from archlab.searching.variants.apply import each_lists
from archlab.searching.variants.pattern import Pattern
from archlab.searching.variants.variant import MISSING, Held, start


def base_value(space: Space, path: str) -> Any:
    """Return the base's value of a varied path, components by their names; None if it has none, as for patterns."""
    domain = space.varied.get(path)  # tuned knobs have none
    if isinstance(domain, Pattern):
        return None
    if isinstance(domain, Held):
        return base_number(space)
    variant = start(space.base, each_lists(space.varied), "base")
    places = [_name(variant.value(place)) for place in variant.places(path)]
    if selectors.is_each(path):
        return places
    return places[0] if places else None


def mark_gaps(path: str, value: Any) -> Any:
    """Return a trial's value, for `[each]` with a dash for every layer without the varied knob."""
    is_each = isinstance(value, list) and selectors.is_each(path)
    return ["-" if entry is None else entry for entry in value] if is_each else value


def _name(value: Any) -> Any:
    if value is MISSING:
        return None
    return value.get("type", value) if isinstance(value, Mapping) else value
