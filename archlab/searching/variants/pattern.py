"""The domain of a list of layers: the layer at each position, as a pattern of letters that is made deeper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.errors import ConfigError
from archlab.searching.variants.letter_counts import count_patterns

OPERATORS = ("stack", "stretch")
MAX_PERIOD = 64
_TEXT = re.compile(r"([A-Za-z]+), (stack|stretch)(?:, (\d+) layers)?")
LETTER = "^[A-Za-z]$"


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
