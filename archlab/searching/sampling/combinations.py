"""Every combination of a space once, in an order that depends on a seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal

from archlab.errors import ConfigError
from archlab.searching.sampling.enqueue_params import optuna_parameters
from archlab.searching.sampling.suggest import suggest
from archlab.searching.space.search_space import Space
from archlab.searching.variants.divisors import NoValue
from archlab.searching.variants.parameter_names import Scalar


def steps_of(low: float, high: float, step: float) -> list[float]:
    """Return the numbers of a range that are whole steps from its low end, as they are written in decimals."""
    first, last, by = Decimal(str(low)), Decimal(str(high)), Decimal(str(step))
    return [float(first + by * n) for n in range(int((last - first) / by) + 1)]


class Combinations:
    """The combinations of a space but those of its seeds, which are tried anyway.

    They are found one after the other, as choices decide which others there are, and how many.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._random = random.Random(f"combinations:{space.study.seed}")
        self._root, self._found = _Node(), list[dict[str, Scalar]]()
        self._seeds = [optuna_parameters(space.varied, space.base, v) for v in space.seed_values().values()]

    def get(self, number: int) -> dict[str, Scalar] | None:
        """Return Optuna's parameters of a combination, or None if there are fewer."""
        while len(self._found) <= number and not self._root.is_done:
            combination = self._next()
            if combination not in self._seeds:
                self._found.append(combination)
        return self._found[number] if number < len(self._found) else None

    def _next(self) -> dict[str, Scalar]:
        walk = _Walk(self._root, self._random)
        with suppress(NoValue):  # of which the trial will fail, and say so
            suggest(walk, self.space.varied, self.space.base, exhaustive=True)
        walk.finish()
        return walk.parameters


@dataclass
class _Node:
    """The combinations left to try after some choices; `children` are those of the next one, once it is known."""

    children: list[_Node] | None = None
    is_done: bool = False


class _Walk:
    """Answers each suggestion by one of the values after which something is left."""

    def __init__(self, root: _Node, generator: random.Random) -> None:
        self.path, self.random = [root], generator
        self.parameters: dict[str, Scalar] = {}

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        """Return one of the choices."""
        return self._choose(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Return one of the integers."""
        return int(self._choose(name, range(low, high + 1, step)))  # type: ignore[arg-type]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Return one of the steps; raise ConfigError where there are none."""
        if step is None:
            raise ConfigError(f"vary.{name}", "brute_force needs a step here, or a list of values")
        return float(self._choose(name, steps_of(low, high, step)))  # type: ignore[arg-type]

    def _choose(self, name: str, values: Sequence[Scalar]) -> Scalar:
        node = self.path[-1]
        if node.children is None:
            node.children = [_Node() for _ in values]
        left = [index for index, child in enumerate(node.children) if not child.is_done]
        index = self.random.choice(left)
        self.path.append(node.children[index])
        self.parameters[name] = values[index]
        return values[index]

    def finish(self) -> None:
        """Mark the combination as tried, and subtrees that are exhausted."""
        self.path[-1].is_done = True
        for node in reversed(self.path[:-1]):
            node.is_done = all(child.is_done for child in _children(node))


def _children(node: _Node) -> list[_Node]:
    assert node.children is not None
    return node.children
