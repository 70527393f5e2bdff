"""An experiment as values of a search space: its values of the varied knobs."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from archlab.config import paths
from archlab.config.diff import first_difference
from archlab.config.domains import Interval, Tie
from archlab.config.experiment import UnresolvedExperiment
from archlab.errors import ConfigError, show_value
from archlab.searching.variants import selectors
from archlab.searching.variants.apply import each_lists
from archlab.searching.variants.divisors import NoValue
from archlab.searching.variants.layer_lists import is_layer_list, layer_entries
from archlab.searching.variants.parameters import SearchParameter, resolve_parameter
from archlab.searching.variants.pattern import Pattern
from archlab.searching.variants.references import sort_paths
from archlab.searching.variants.variant import Held, Variant, Varied, start

Tree = Mapping[str, Any]
_NOTHING = object()


def express(
    varied: Mapping[str, Varied], base: UnresolvedExperiment, wanted: UnresolvedExperiment
) -> tuple[dict[str, Any], str]:
    """Return the values of the varied knobs that make an experiment's model of the base, and the first that fails.

    A knob that has a value outside its domain there is left out of the values, and so are tied and held ones.
    """
    # As single layers on both sides: the number that is solved for is compared with one that `repeat` may give.
    held = (path for path, domain in varied.items() if isinstance(domain, Held) and is_layer_list(path, base))
    lists = (*each_lists(varied), *held)
    target = start(wanted, lists, "space").raw.resolve().resolved
    values: dict[str, Any] = {}
    problem, variant = "", start(base, lists, "space")
    for path in sort_paths(varied):
        domain = varied[path]
        if isinstance(domain, Held | Tie):
            variant = _follow(path, domain, variant, target, wanted)
            continue
        below = [other for other in varied if selectors.is_ancestor(path, other)]
        value = _find_all(path, domain, variant, target, below)
        if value is None:  # there is no such knob
            continue
        if value is _NOTHING:
            problem = problem or f"{path}: {_describe(path, domain, target, below)} is not in the space"
            continue
        values[path] = value
        variant = variant.put(path, domain, value)
    made = variant.raw.resolve().resolved["model"]
    if not problem and (difference := first_difference(target["model"], made, path="model")):
        problem = difference
    return values, problem


def _follow(path: str, domain: Varied, variant: Variant, target: Tree, wanted: UnresolvedExperiment) -> Variant:
    """Return the variant with values that a trial does not choose: a tie, or the given number for a solved one."""
    if isinstance(domain, Tie):
        return variant.put(path, domain, None)
    if is_layer_list(path, variant.raw):
        return variant.put(path, domain, len(layer_entries(wanted, path)))
    found = _values_at(target, path, [])
    return variant.put_everywhere(path, found[0]) if found else variant


def _find_all(path: str, domain: Varied, variant: Variant, target: Tree, below: list[str]) -> Any:
    """Return the value of a path, a list for `[each]`; _NOTHING if the space has none, None if there is no knob."""
    if isinstance(domain, Pattern) or (not selectors.is_each(path) and selectors.first_selector(path)):
        return _NOTHING  # of which layers of another model would be read as which letters
    own = variant.parameter_paths(path)
    values = [_find_one(one, domain, variant, target, below) for one in own]
    if not selectors.is_each(path):
        return values[0]
    if all(value is None for value in values):
        return None
    return _NOTHING if any(value is _NOTHING for value in values) else values


def _find_one(path: str, domain: Any, variant: Variant, target: Tree, below: list[str]) -> Any:
    try:
        parameter = resolve_parameter(path, domain, variant)
    except NoValue:
        return _NOTHING
    return None if parameter is None else _find(parameter, variant, _values_at(target, path, below), below)


def _find(parameter: SearchParameter, variant: Variant, found: list[Any], below: list[str]) -> Any:
    """Return the value of a domain that yields the found data, or _NOTHING."""
    domain = parameter.domain
    if isinstance(domain, Interval):
        alike = bool(found) and all(value == found[0] for value in found)
        return found[0] if alike and _is_inside(found[0], domain) else _NOTHING
    return next((choice for choice in domain.values if _gives(choice, parameter.path, variant, found, below)), _NOTHING)


def _gives(choice: Any, path: str, variant: Variant, found: list[Any], below: list[str]) -> bool:
    try:
        made = _values_at(variant.put_everywhere(path, choice).raw.resolve().resolved, path, below)
    except ConfigError:  # a choice that needs another choice below it
        return False
    return bool(found) and bool(made) and all(value == made[0] for value in (*made, *found))


def _is_inside(value: Any, domain: Interval) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not domain.low <= value <= domain.high:
        return False
    steps = (value - domain.low) / domain.step if domain.step else 0.0
    return abs(steps - round(steps)) < 1e-9


def _values_at(resolved: Tree, path: str, below: list[str]) -> list[Any]:
    """Return the values at a path of a resolved experiment, without those that vary below it."""
    tree = deepcopy(dict(resolved))
    for other in below:
        for place in _places(tree, other):
            *above, last = paths.split(place)
            node = paths.get(tree, paths.join(above))
            if isinstance(node, dict):
                node.pop(str(last), None)
    values = [paths.get(tree, place, _NOTHING) for place in _places(tree, path)]
    return [value for value in values if value is not _NOTHING]


def _places(tree: dict[str, Any], path: str) -> list[str]:
    every = selectors.join(["*" if selectors.is_selector(part) else part for part in selectors.split(path)])
    try:
        return paths.expand(tree, every)
    except ConfigError:
        return []


def _describe(path: str, domain: Varied, target: Tree, below: list[str]) -> str:
    if isinstance(domain, Pattern) or (selectors.first_selector(path) and not selectors.is_each(path)):
        return "a pattern, which is not read from an experiment's layers,"
    found = _values_at(target, path, below)
    different = [value for index, value in enumerate(found) if value not in found[:index]]
    return ", then ".join(show_value(value, 60) for value in different) or "nothing"
