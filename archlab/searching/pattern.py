"""The domain of a list of layers: which layer stands where, as a pattern of letters that is made deeper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from archlab.config.domains import Count, Range
from archlab.config.schema import coerce, reject_unknown
from archlab.config.spec import MAX_REPEATS
from archlab.errors import ConfigError, did_you_mean
from archlab.searching.letter_counts import count_patterns

OPERATORS = ("stack", "stretch")
MAX_PERIOD = 64
_KEYS = ("of", "layer", "period", "at_least", "at_most", "operator", "depth", "repeats")
_TEXT = re.compile(r"([A-Za-z]+), (stack|stretch)(?:, (\d+) layers)?")
_Period = Annotated[int, Range(low=1, high=MAX_PERIOD)]
_LetterCount = Annotated[int, Range(low=0, high=MAX_PERIOD)]


@dataclass(frozen=True)
class Pattern:
    """Patterns of `period` layers, each named by a letter, which an operator makes `depth` layers deep.

    `layers` are the knobs that the layer of each letter sets, `layer` those that all of them set.
    """

    layers: Mapping[str, Mapping[str, Any]]
    layer: Mapping[str, Any]
    period: int
    bounds: Mapping[str, tuple[int, int]]
    operators: tuple[str, ...]
    depth: int

    @property
    def num_patterns(self) -> int:
        """The number of allowed patterns."""
        return count_patterns(tuple(self.bounds.values()), self.period)

    def knobs_of(self, letter: str) -> list[Mapping[str, Any]]:
        """Return the mappings that make a letter's layer, to be merged over another layer in this order."""
        return [self.layer, self.layers[letter]]


@dataclass(frozen=True)
class PatternValue:
    """A pattern that a trial has, as `aam, stack` or `aam, stretch, 12 layers` in its values.

    `depth` is given where it is not the one that the space declares.
    """

    letters: str
    operator: str
    depth: int | None = None

    def __str__(self) -> str:
        deep = "" if self.depth is None else f", {self.depth} layers"
        return f"{self.letters}, {self.operator}{deep}"

    def sources(self, depth: int) -> list[int]:
        """Return the position in the pattern of each of `depth` layers."""
        return positions(len(self.letters), depth, self.operator)


def positions(period: int, depth: int, operator: str) -> list[int]:
    """Return where each of `depth` layers comes from among `period`, the last ones cut if it does not divide `depth`.

    `stack` repeats the period, `stretch` repeats each of its entries.
    """
    if operator == "stack":
        return [index % period for index in range(depth)]
    return [index * period // depth for index in range(depth)]


def parse_value(text: Any, pattern: Pattern, path: str) -> PatternValue:
    """Read a trial's value of a pattern; raise ConfigError for one that the space does not have."""
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(path, f"{text!r} is not a pattern such as 'aam, stack'")
    letters, operator, depth = match.groups()
    if len(letters) != pattern.period or not set(letters) <= set(pattern.layers):
        of = f"{pattern.period} letters of {', '.join(pattern.layers)}"
        raise ConfigError(path, f"{letters!r} is not a pattern of {of}")
    return PatternValue(letters, operator, int(depth) if depth else None)


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
        if not re.fullmatch("[A-Za-z]", letter):
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
        raise ConfigError(path, "repeat is what the pattern says: give period, and depth or repeats", key="repeat")
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
