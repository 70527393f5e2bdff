"""Ranges of valid knob values, and domains that a search samples from."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

from archlab.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """A closed interval of numbers; with `above` it excludes `low`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return least if self.high >= LARGEST else f"{least} and at most {self.high:g}"


LARGEST = 2**40  # beyond any real model; a typo with more digits is an error and not an allocation
Count: TypeAlias = Annotated[int, Range(low=1, high=LARGEST)]
# Counts that `train.base_width` scales with the model: features, and heads as far as their number divides.
WIDTH, HEADS = "width", "heads"
Width: TypeAlias = Annotated[int, Range(low=1, high=LARGEST), WIDTH]
Heads: TypeAlias = Annotated[int, Range(low=1, high=LARGEST), HEADS]
Index: TypeAlias = Annotated[int, Range(low=0, high=LARGEST)]
Positive: TypeAlias = Annotated[float, Range(low=0, above=True, high=1e30)]
NonNegative: TypeAlias = Annotated[float, Range(low=0, high=1e30)]
Fraction: TypeAlias = Annotated[float, Range(low=0, high=1)]
# At 1 the bias correction of Adam would divide by zero.
Beta: TypeAlias = Annotated[float, Range(low=0, high=0.999999)]


@dataclass(frozen=True)
class Choice:
    """A categorical domain; a value may be a component, as its name or its mapping."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Interval:
    """A numeric domain with both ends included; `log` samples in the logarithm, `step` discretizes.

    `divides` is the path of a whole number, of which only divisors are in the domain.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    divides: str | None = None


@dataclass(frozen=True)
class Tie:
    """The domain of a knob that always has the value of the knob at another path."""

    same_as: str


Domain: TypeAlias = Choice | Interval


def choice(*values: object) -> Choice:
    """Declare a categorical search domain."""
    return Choice(values)


def interval(low: float, high: float, *, log: bool = False, step: float | None = None) -> Interval:
    """Declare a numeric search domain from `low` to `high`, both included."""
    return Interval(low, high, log, step)


def parse_domain(value: Any, path: str) -> Domain | Tie:
    """Parse choices, a range `{low, high, log, step, divides}` or a tie `{same_as}`; raise ConfigError otherwise."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _parse_choice(list(value), path)
    if isinstance(value, Mapping) and "same_as" in value:
        return Tie(_parse_tie(value, path))
    if isinstance(value, Mapping):
        return _parse_interval(value, path)
    raise ConfigError(path, f"{value!r} is neither a list of choices, nor {{low, high}}, nor auto")


def _parse_tie(value: Mapping[str, Any], path: str) -> str:
    if len(value) > 1:
        other = next(key for key in value if key != "same_as")
        raise ConfigError(path, f"same_as stands alone, without {other!r}: the value is that of another knob")
    return _path(value["same_as"], f"{path}.same_as")


def _path(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(path, f"{value!r} is not the path of a knob")
    return value


def _parse_choice(values: list[Any], path: str) -> Choice:
    if not values:
        raise ConfigError(path, "the list of choices is empty")
    if any(value in values[:index] for index, value in enumerate(values)):  # values may be unhashable mappings
        raise ConfigError(path, f"a choice is listed twice in {values!r}")
    return Choice(tuple(values))


def _parse_interval(value: Mapping[str, Any], path: str) -> Interval:
    unknown = [key for key in value if key not in ("low", "high", "log", "step", "divides")]
    if unknown:
        raise ConfigError(path, f"unknown key {unknown[0]!r} of a range; known: divides, high, log, low, step")
    low, high = (_number(value.get(end), path) for end in ("low", "high"))
    if low > high:
        raise ConfigError(path, f"low {low} is above high {high}")
    interval = _build_interval(low, high, value.get("log", False), value.get("step"), path)
    return _with_divides(interval, value["divides"], path) if "divides" in value else interval


def _with_divides(interval: Interval, divides: Any, path: str) -> Interval:
    if interval.log:
        raise ConfigError(path, "a range that divides has no log: its values are a few whole numbers")
    ends = (interval.low, interval.high, 1 if interval.step is None else interval.step)
    if interval.low < 1 or any(end != int(end) for end in ends):
        raise ConfigError(path, "a range that divides needs whole numbers from 1")
    return replace(interval, divides=_path(divides, f"{path}.divides"))


def _build_interval(low: float, high: float, log: Any, step: Any, path: str) -> Interval:
    if not isinstance(log, bool):
        raise ConfigError(path, f"log is {log!r}, not true or false")
    if step is not None and (not _is_finite(step) or step <= 0):
        raise ConfigError(path, f"step is {step!r}, not a number above 0")
    if log and (low <= 0 or step is not None):
        raise ConfigError(path, "a log range needs low above 0 and no step")
    return Interval(low, high, log, step)


def _number(value: Any, path: str) -> float:
    if not _is_finite(value):
        raise ConfigError(path, "a range needs two numbers, low and high")
    return value


def _is_finite(value: Any) -> bool:
    # A bool is an int in Python. The comparison is False for nan, and cannot overflow for a large int.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
