"""The `pattern:` of a search space, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from archlab.config.domains import Count, Range
from archlab.config.schema import coerce, reject_unknown
from archlab.config.spec import MAX_REPEATS
from archlab.errors import ConfigError, did_you_mean
from archlab.searching.variants.pattern import LETTER, MAX_PERIOD, OPERATORS, Pattern

_KEYS = ("of", "layer", "period", "at_least", "at_most", "operator", "depth", "repeats")
_Period = Annotated[int, Range(low=1, high=MAX_PERIOD)]
_LetterCount = Annotated[int, Range(low=0, high=MAX_PERIOD)]


def parse_pattern(data: Any, path: str) -> Pattern:
    """Check a `pattern:` of a search space; raise ConfigError naming the key."""
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"{data!r} is not a mapping with of and period")
    reject_unknown(data, _KEYS, path)
    layers = _parse_letters(data.get("of"), f"{path}.of")
    if "period" not in data:
        raise ConfigError(f"{path}.period", "is missing: the number of letters of a pattern")
    period = coerce(data["period"], _Period, f"{path}.period")
    return Pattern(
        layers=layers,
        layer=_parse_layer(data.get("layer", {}), f"{path}.layer"),
        period=period,
        bounds=_parse_bounds(data, list(layers), period, path),
        operators=_parse_operators(data.get("operator", OPERATORS[0]), f"{path}.operator"),
        depth=_parse_depth(data, period, path),
    )


def _parse_letters(data: Any, path: str) -> dict[str, Mapping[str, Any]]:
    if not isinstance(data, Mapping) or len(data) < 2:
        raise ConfigError(path, "is not a mapping of two or more letters to layers")
    for letter in data:
        if not re.fullmatch(LETTER, letter):
            raise ConfigError(path, f"{letter!r} is not one letter, as a pattern is written in letters")
    layers = {letter: _parse_layer(data[letter], f"{path}.{letter}") for letter in sorted(data)}
    for letter, layer in layers.items():
        twin = next((other for other in layers if other < letter and layers[other] == layer), None)
        if twin:
            raise ConfigError(f"{path}.{letter}", f"is the same layer as {twin}")
    return layers


def _parse_layer(data: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"{data!r} is not a mapping of a layer's knobs, such as {{mixer: attention}}")
    if "repeat" in data:
        raise ConfigError(path, "repeat is determined by the pattern: give period, and depth or repeats", key="repeat")
    return data


def _parse_bounds(
    data: Mapping[str, Any], letters: Sequence[str], period: int, path: str
) -> dict[str, tuple[int, int]]:
    least = _parse_counts(data.get("at_least", {}), letters, f"{path}.at_least")
    most = _parse_counts(data.get("at_most", {}), letters, f"{path}.at_most")
    bounds = {letter: (least.get(letter, 0), min(most.get(letter, period), period)) for letter in sorted(letters)}
    for letter, (low, high) in bounds.items():
        if low > high:
            raise ConfigError(f"{path}.at_least.{letter}", f"{low} is more than the {high} that there can be")
    low, high = (sum(bound[end] for bound in bounds.values()) for end in (0, 1))
    if low > period:
        raise ConfigError(f"{path}.at_least", f"asks for {low} layers of a period of {period}")
    if high < period:
        raise ConfigError(f"{path}.at_most", f"allows {high} layers of a period of {period}")
    return bounds


def _parse_counts(data: Any, letters: Sequence[str], path: str) -> dict[str, int]:
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"{data!r} is not a mapping of letters to numbers of layers")
    for letter in data:
        if letter not in letters:
            raise ConfigError(path, f"no letter {letter!r}{did_you_mean(letter, letters)}")
    return {letter: coerce(count, _LetterCount, f"{path}.{letter}") for letter, count in data.items()}


def _parse_operators(data: Any, path: str) -> tuple[str, ...]:
    operators = data if isinstance(data, list) else [data]
    for operator in operators:
        if operator not in OPERATORS:
            raise ConfigError(path, f"{operator!r} is neither stack nor stretch, nor a list of both")
    if not operators or len(set(operators)) < len(operators):
        raise ConfigError(path, f"{data!r} names an operator twice, or none")
    return tuple(operators)


def _parse_depth(data: Mapping[str, Any], period: int, path: str) -> int:
    if "depth" in data and "repeats" in data:
        raise ConfigError(f"{path}.depth", "and repeats say the same thing: give one of them")
    depth = coerce(data.get("repeats", 1), Count, f"{path}.repeats") * period
    if "depth" in data:
        depth = coerce(data["depth"], Count, f"{path}.depth")
        if depth % period:
            near = max(round(depth / period), 1) * period
            raise ConfigError(f"{path}.depth", f"{depth} is not a multiple of the period {period}; {near} is")
    if depth > MAX_REPEATS:
        raise ConfigError(path, f"{depth} layers are more than {MAX_REPEATS}")
    return depth
