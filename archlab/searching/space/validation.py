"""Validation of a search space before anything is trained: every path exists, and every value fits its knob."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from archlab.config import renames
from archlab.config.domains import Choice, Domain, Interval, Tie
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.path_hints import hint_of_path
from archlab.config.registry import Slot, find
from archlab.config.schema import Knob, coerce, reject_unknown
from archlab.config.spec import REPEAT
from archlab.errors import ConfigError
from archlab.searching.variants import selectors
from archlab.searching.variants.apply import each_lists
from archlab.searching.variants.divisors import NoValue
from archlab.searching.variants.layer_lists import is_layer_list
from archlab.searching.variants.parameters import SearchParameter, resolve_parameter
from archlab.searching.variants.pattern import Pattern, PatternValue
from archlab.searching.variants.references import reference_of, sort_paths
from archlab.searching.variants.variant import Held, Variant, Varied, start
from archlab.text import with_article

_MAX_COMBINATIONS = 10_000


def validate_space(varied: Mapping[str, Varied], base: UnresolvedExperiment) -> None:
    """Raise ConfigError for a path that does not exist whatever the choices, and for invalid values."""
    _check_selectors(varied, base)
    order = sort_paths(varied)
    whole = start(base, each_lists(varied), "vary")
    for path in order:
        if not isinstance(varied[path], Held):
            _validate(path, varied, order, whole)


def _validate(path: str, varied: Mapping[str, Varied], order: list[str], base: Variant) -> None:
    domain, problems = varied[path], list[str]()
    if isinstance(domain, Pattern):
        _check_pattern(path, domain, base)
        return
    exists = False
    for variant in _branches(path, varied, order, base):
        if variant.knobs(path):
            exists = True
            try:
                _check_in(path, domain, variant)
            except NoValue as error:
                problems.append(str(error))
            else:
                problems.append("")
    if not exists:
        hint = hint_of_path(base.raw.tree, selectors.split(path), path)
        raise ConfigError(f"vary.{path}", f"there is no such knob, whichever choices are made above it{hint}")
    if all(problems):
        raise ConfigError(f"vary.{path}", problems[0].removeprefix(f"{path}: "))


def _check_in(path: str, domain: Domain | Tie | Held | None, variant: Variant) -> None:
    assert not isinstance(domain, Held)
    if isinstance(domain, Tie):
        _check_tie(path, domain, variant)
        return
    for one in variant.parameter_paths(path):
        parameter = resolve_parameter(one, domain, variant)
        if parameter is not None:
            _check_domain(parameter, variant)


def _check_tie(path: str, tie: Tie, variant: Variant) -> None:
    try:
        values = variant.tied_values(path, tie)
    except ConfigError as error:
        raise ConfigError(f"vary.{path}", error.problem) from None
    if not values:
        raise NoValue(f"same_as: there is no knob {tie.same_as}")
    for place, value in values.items():
        knob = variant.raw.knob(place)
        assert knob is not None
        _check_choice(value, knob, place, f"vary.{path}.same_as")


def _check_pattern(path: str, pattern: Pattern, base: Variant) -> None:
    """Raise ConfigError where a letter's layer is none, naming the letter."""
    if not is_layer_list(path, base.raw):
        raise ConfigError(f"vary.{path}", "is not a list of layers, which a pattern is of")
    for letter in pattern.layers:
        where = f"vary.{path}.pattern.of.{letter}"
        try:
            value = str(PatternValue(letter * pattern.period, pattern.operators[0], 1))
            base.put(path, pattern, value).finish().resolve()
        except ConfigError as error:
            raise ConfigError(where + error.path.removeprefix(f"{path}[0]"), error.problem) from None


def _check_selectors(varied: Mapping[str, Varied], base: UnresolvedExperiment) -> None:
    for path in varied:
        found = selectors.first_selector(path)
        if found is None:
            continue
        layers, name, rest = found
        if "*" in layers or selectors.first_selector(rest or "x"):
            raise ConfigError(f"vary.{path}", f"[{name}] is the only wildcard before the varied knob")
        if rest == "repeat":
            raise ConfigError(f"vary.{path}", "repeat is not varied where every layer is by itself")
        pattern = varied.get(layers)
        if name != selectors.EACH and not (isinstance(pattern, Pattern) and name in pattern.layers):
            known = f"; its letters are {', '.join(pattern.layers)}" if isinstance(pattern, Pattern) else ""
            raise ConfigError(f"vary.{path}", f"[{name}] is not a layer of a pattern of {layers}{known}")
        if not is_layer_list(layers, base):
            raise ConfigError(f"vary.{path}", f"{layers} is not a list of layers")


def _branches(path: str, varied: Mapping[str, Varied], order: list[str], base: Variant) -> Iterator[Variant]:
    """Yield the base experiment with every combination of the choices that decide whether a path exists."""
    reference = reference_of(varied[path])
    decisive = [path] if reference is None else [path, reference]
    above = [other for other in order if any(selectors.is_ancestor(other, one) for one in decisive)]
    branches = [base]
    for other in above:
        branches = [new for variant in branches for new in _with_choices(other, varied[other], variant)]
        if len(branches) > _MAX_COMBINATIONS:
            raise ConfigError(f"vary.{path}", f"more than {_MAX_COMBINATIONS} combinations of choices above it")
    yield from branches


def _with_choices(path: str, domain: Varied, variant: Variant) -> list[Variant]:
    if isinstance(domain, Pattern):
        return [variant.put_letters(path, domain)]
    if isinstance(domain, Tie | Held):
        return [variant]
    every = [resolve_parameter(one, domain, variant) for one in variant.parameter_paths(path)]
    values = next((p.domain.values for p in every if p is not None and isinstance(p.domain, Choice)), None)
    if values is None:
        return [variant]
    return [variant.put_everywhere(path, value) for value in values]


def _check_domain(parameter: SearchParameter, variant: Variant) -> None:
    path, domain = parameter.path, parameter.domain
    values = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    for place, knob in variant.knobs(path).items():
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
        _check_component(value, slot, path)


def _check_component(value: Any, slot: Slot, path: str) -> None:
    """Raise ConfigError for a name or a value that no component has; one that is left out may be varied by itself."""
    entry = {"type": value} if isinstance(value, str) else value
    if not isinstance(entry, Mapping):
        raise ConfigError(
            path, f"{value!r} is not {with_article(slot.kind)}: give its name, or a mapping with its type"
        )
    component = find(slot.kind, entry.get("type", slot.default), path)
    own = {"type": None, **({REPEAT.name: REPEAT} if slot.many else {})}
    renamed = renames.current().knobs_of(component.kind, component.name)
    reject_unknown(entry, [*component.knobs, *own], path, component.name, renamed)
    for name, below in entry.items():
        knob = component.knobs.get(name) or own[name]
        if knob is not None and "${" not in str(below):  # an interpolation has its value in an experiment
            _check_choice(below, knob, name, f"{path}.{name}")


def _check_list(value: Any, slot: Slot, path: str) -> None:
    if not isinstance(value, list) or not value:
        raise ConfigError(path, f"{value!r} is not a list of one or more {slot.kind}s")
    for index, entry in enumerate(value):
        _check_component(entry, slot, f"{path}[{index}]")
