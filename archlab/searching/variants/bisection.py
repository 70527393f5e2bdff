"""The whole number at which a monotone cost is nearest to a target, where the cost is known at some numbers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_MAX_COSTS = 40
_MAX_FACTOR = 8.0  # of one guess over the last: a cost is a power of the number only nearby
_FIRST_EXPONENT = 1.5  # of a model's size in its width, between an embedding's and a layer's
_MANY_FAILURES = 12
_FARTHEST = 128  # steps around a guess, in search of a number whose cost is known


@dataclass
class Bisection:
    """Search among `low`, `low + step`, ... `high`; `cost` returns None for a number at which there is no model."""

    cost: Callable[[int], float | None]
    target: float
    low: int
    high: int
    step: int = 1
    close: float = 0.002  # relative error at which no better number is looked for
    costs: dict[int, float] = field(default_factory=dict)
    failures: set[int] = field(default_factory=set)

    def nearest(self, start: int) -> tuple[int, float] | None:
        """Return the number whose cost is nearest to the target, and that cost; None if none has a cost."""
        guess: int | None = self._first(start)
        while guess is not None and len(self.costs) < _MAX_COSTS and self._error(guess) > self.close:
            guess = self._next()
        best = min(self.costs, key=lambda n: (self._error(n), n), default=None)
        return None if best is None else (best, self.costs[best])

    def _error(self, n: int) -> float:
        return abs(self.costs[n] / self.target - 1)

    def _first(self, start: int) -> int | None:
        return self._nearest_costed(min(max(start, self.low), self.high), self.low - 1, self.high + 1)

    def _next(self) -> int | None:
        """Measure one more number between the nearest ones around the target, or beyond them; None if none is left."""
        under = [n for n, cost in self.costs.items() if cost <= self.target]
        over = [n for n, cost in self.costs.items() if cost > self.target]
        if not under or not over:
            return self._beyond(sorted(under or over, key=self._error)[:2])
        a, b = min(((u, o) for u in under for o in over), key=lambda pair: abs(pair[0] - pair[1]))
        guess = self._interpolate(a, b) if len(self.costs) % 3 else (a + b) // 2
        return self._nearest_costed(guess, min(a, b), max(a, b))

    def _interpolate(self, a: int, b: int) -> int:
        share = math.log(self.target / self.costs[a]) / math.log(self.costs[b] / self.costs[a])
        return round(math.exp(math.log(a) + share * math.log(b / a)))

    def _beyond(self, ends: list[int]) -> int | None:
        """Measure a number beyond all others, on the side where the target must be."""
        exponent = _FIRST_EXPONENT if len(ends) < 2 else self._exponent(*ends)
        if exponent == 0:
            return None
        # A little too far: a target between two numbers is found faster than one that is approached from one side.
        factor = (self.target / self.costs[ends[0]]) ** (1.1 / exponent)
        guess = round(ends[0] * min(max(factor, 1 / _MAX_FACTOR), _MAX_FACTOR))
        if factor > 1:
            return self._nearest_costed(max(guess, max(self.costs) + 1), max(self.costs), self.high + 1)
        return self._nearest_costed(min(guess, min(self.costs) - 1), self.low - 1, min(self.costs))

    def _exponent(self, a: int, b: int) -> float:
        exponent = math.log(self.costs[b] / self.costs[a]) / math.log(b / a)
        return math.copysign(min(max(abs(exponent), 0.25), 4.0), exponent) if exponent else 0.0

    def _nearest_costed(self, guess: int, above: int, below: int) -> int | None:
        """Return a number near the guess, between two others, whose cost could be measured."""
        for n in self._near(min(max(guess, above + 1), below - 1), above, below):
            if n in self.costs or n in self.failures or self._is_hopeless(n):
                continue
            cost = self.cost(n)
            if cost is not None and cost > 0:
                self.costs[n] = cost
                return n
            self.failures.add(n)
        return None

    def _near(self, guess: int, above: int, below: int) -> Iterator[int]:
        """Yield numbers around a guess, round ones among the first: widths are divided by heads and groups."""
        for unit in (1, 2, 4, 8, 16, 32, 64):
            n = self._on_grid(guess, unit)
            if above < n < below:
                yield n
        nearest = self._on_grid(guess, 1)
        for distance in range(_FARTHEST):
            inside = [n for n in (nearest - distance * self.step, nearest + distance * self.step) if above < n < below]
            yield from dict.fromkeys(inside)
            if not inside and distance > 1:
                return

    def _on_grid(self, guess: int, unit: int) -> int:
        whole = self.step * unit
        first, last = -(-self.low // self.step) * self.step, self.high // self.step * self.step
        return min(max(round(guess / whole) * whole, first), last)

    def _is_hopeless(self, n: int) -> bool:
        """Whether all numbers so far that have a cost have a divisor that this one and all failures lack."""
        divisor = math.gcd(*self.costs)
        if len(self.costs) < 2 or len(self.failures) < _MANY_FAILURES or n % divisor == 0:
            return False
        return all(failure % divisor for failure in self.failures)
