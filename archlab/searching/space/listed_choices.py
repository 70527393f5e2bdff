"""The list of choices of a varied path, where it has one."""

from __future__ import annotations

from typing import Any

from archlab.config.domains import Choice, Tie
from archlab.searching.space.search_space import Space
from archlab.searching.variants import selectors
from archlab.searching.variants.divisors import NoValue
from archlab.searching.variants.parameters import resolve_parameter
from archlab.searching.variants.pattern import Pattern
from archlab.searching.variants.variant import Held, start


def listed_choices(space: Space, path: str) -> tuple[Any, ...] | None:
    """Return the choices of a path, none for a range, a pattern or single layers; None if the base has no such knob."""
    domain = space.varied[path]
    if selectors.first_selector(path) or isinstance(domain, Tie | Pattern | Held):
        return ()
    try:
        parameter = resolve_parameter(path, domain, start(space.base, (), "base"))
    except NoValue:
        return None
    if parameter is None:
        return None
    return parameter.domain.values if isinstance(parameter.domain, Choice) else ()
