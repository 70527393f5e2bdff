"""An experiment as values of a search space: what the varied knobs are in it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from archlab.config import paths
from archlab.config.diff import first_difference
from archlab.config.domains import Domain, Interval
from archlab.config.experiment import UnresolvedExperiment
from archlab.errors import ConfigError, show_value
from archlab.searching.parameters import SearchParameter, is_ancestor, resolve_parameter, sort_by_depth

Vary = Mapping[str, Domain | None]


def express(vary: Vary, base: UnresolvedExperiment, wanted: UnresolvedExperiment) -> tuple[dict[str, Any], str]:
    """Return the values of the varied knobs that make an experiment's model of the base, and the first that fails.

    A knob that has a value outside its domain there is left out of the values.
    """
    target = wanted.resolve().resolved
    values: dict[str, Any] = {}
    problem, raw = "", base
    for path in sort_by_depth(vary):
        parameter = resolve_parameter(path, vary[path], raw)
        if parameter is None:
            continue
        below = [other for other in vary if is_ancestor(path, other)]
        found = _values_at(target, path, below)
        value = _find(parameter, raw, found, below)
        if value is _NOTHING:
            problem = problem or f"{path}: {_describe(found)} is not in the space"
            continue
        values[path] = value
        raw = raw.override({path: value}, "space")
    if not problem and (difference := first_difference(target["model"], raw.resolve().resolved["model"], path="model")):
        problem = difference
    return values, problem


_NOTHING = object()


def _find(parameter: SearchParameter, raw: UnresolvedExperiment, found: list[Any], below: list[str]) -> Any:
    """Return the value of a domain that gives what was found, or _NOTHING."""
    domain = parameter.domain
    if isinstance(domain, Interval):
        alike = bool(found) and all(value == found[0] for value in found)
        return found[0] if alike and _is_inside(found[0], domain) else _NOTHING
    return next((choice for choice in domain.values if _gives(choice, parameter.path, raw, found, below)), _NOTHING)


def _gives(choice: Any, path: str, raw: UnresolvedExperiment, found: list[Any], below: list[str]) -> bool:
    try:
        made = _values_at(raw.override({path: choice}, "space").resolve().resolved, path, below)
    except ConfigError:  # a choice that needs another choice below it
        return False
    return bool(found) and bool(made) and all(value == made[0] for value in (*made, *found))


def _is_inside(value: Any, domain: Interval) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not domain.low <= value <= domain.high:
        return False
    steps = (value - domain.low) / domain.step if domain.step else 0.0
    return abs(steps - round(steps)) < 1e-9


def _values_at(resolved: Mapping[str, Any], path: str, below: list[str]) -> list[Any]:
    """Return the values at a path of a resolved experiment, without those that vary below it."""
    tree = deepcopy(dict(resolved))
    for other in below:
        for place in _places(tree, other):
            *above, last = paths.split(place)
            node = paths.get(tree, paths.join(above))
            if isinstance(node, dict):
                node.pop(last, None)
    values = [paths.get(tree, place, _NOTHING) for place in _places(tree, path)]
    return [value for value in values if value is not _NOTHING]


def _places(tree: dict[str, Any], path: str) -> list[str]:
    try:
        return paths.expand(tree, path)
    except ConfigError:
        return []


def _describe(found: list[Any]) -> str:
    different = [value for index, value in enumerate(found) if value not in found[:index]]
    return ", then ".join(show_value(value, 60) for value in different) or "nothing"
