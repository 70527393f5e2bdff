"""The axis of a varied knob: numbers as numbers, ranges as they are sampled, choices in their order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from archlab.config.domains import Interval
from archlab.errors import ArchlabError
from archlab.reporting.figures.chart import Part, axis, categories
from archlab.reporting.format import brief
from archlab.reporting.search_data import Run, SearchData
from archlab.searching.space.listed_choices import listed_choices
from archlab.searching.variants.parameters import resolve_parameter
from archlab.searching.variants.variant import start

_LOG_FROM = 30  # times the smallest value: a range of a component that the base lacks does not say how it is sampled
_FEW = 8  # different numbers up to which a knob's axis has a place for each


@dataclass(frozen=True)
class KnobAxis:
    """A knob's axis, and the place of each value on it; `is_numeric` unless its places are counted."""

    path: str
    label: str
    names: tuple[str, ...]
    is_numeric: bool
    is_log: bool = False
    low: float = 0.0
    high: float = 1.0

    def place(self, run: Run) -> float | None:
        """Return a run's position on the axis, or None if it does not have the knob."""
        if self.path not in run.values:
            return None
        value = run.values[self.path]
        if self.is_numeric:
            return float(value) if _is_number(value) else None
        name = brief(value)
        return self.names.index(name) if name in self.names else None

    def between(self, share: float) -> float:
        """Return the value at a share of the range."""
        if self.is_log:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share

    def to_part(self) -> Part:
        """Return the axis for a figure."""
        if self.is_numeric:
            return axis(self.label, [self.low, self.high], log=self.is_log)
        return categories(self.label, self.names)


def knob_axis(path: str, label: str, data: SearchData, runs: Sequence[Run]) -> KnobAxis:
    """Return the axis of a knob's values."""
    values = [run.values[path] for run in runs if path in run.values]
    interval = _interval(data, path)
    if not values or not all(map(_is_number, values)):
        return KnobAxis(path, label, _order_values(values, _listed_values(data, path)), False)
    if interval is None and len(set(values)) <= _FEW:
        return KnobAxis(path, label, tuple(brief(value) for value in sorted(set(values))), False)
    low, high = min(values), max(values)
    is_log = interval.log if interval else low > 0 and high / low >= _LOG_FROM
    return KnobAxis(path, label, (), True, is_log, low, high)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order_values(values: Sequence[Any], listed: Sequence[Any]) -> tuple[str, ...]:
    """Return names in the order of the space, then numbers by their size, then all others by their letters."""
    places = {brief(value): place for place, value in enumerate(listed)}
    sizes = {brief(value): value for value in values if _is_number(value)}
    names = dict.fromkeys(map(brief, values))
    return tuple(sorted(names, key=lambda n: (places.get(n, len(places)), n not in sizes, sizes.get(n, 0), n)))


def _listed_values(data: SearchData, path: str) -> Sequence[Any]:
    with contextlib.suppress(ArchlabError):
        return (listed_choices(data.space, path) or ()) if path in data.space.varied else ()
    return ()


def _interval(data: SearchData, path: str) -> Interval | None:
    """Return the range from which a knob is sampled, or None if it has choices or the base experiment lacks it."""
    inner = data.space.inner.domains if data.space.inner else {}
    domain = {**inner, **data.space.varied}[path]
    if domain is None:
        with contextlib.suppress(ArchlabError):
            parameter = resolve_parameter(path, None, start(data.space.base, (), "base"))
            domain = parameter.domain if parameter else None
    return domain if isinstance(domain, Interval) else None
