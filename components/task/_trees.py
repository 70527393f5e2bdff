"""Random expressions of ListOps (arXiv:1804.06028), many at a time.

All nodes of one depth make a level; the nodes below a node stand side by side in the next level. R roots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.int64]
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
WORDS = ("", *"0123456789", *OPERATORS, "]")
END = len(WORDS) - 1
OPERATOR_SHARE = 0.25


@dataclass(frozen=True)
class Level:
    """The nodes of one depth: the node above each, its digit or the number of its operator, and its arguments."""

    parent: Numbers
    choice: Numbers
    num_args: Numbers

    @property
    def is_operator(self) -> NDArray[np.bool_]:
        """Which nodes have arguments."""
        return self.num_args > 0


def grow(random: np.random.RandomState, count: int, max_depth: int, max_args: int) -> list[Level]:
    """Return the levels of so many trees, drawn as Long Range Arena draws them (arXiv:2011.04006).

    A node above the greatest depth is an operator in one of four cases, each as likely, with 2 to `max_args` arguments.
    """
    levels, parent = [], np.zeros(count, np.int64)
    for depth in range(1, max_depth + 1):
        is_operator = (random.random_sample(len(parent)) < OPERATOR_SHARE) & (depth < max_depth)
        num_args = np.where(is_operator, random.randint(2, max_args + 1, len(parent), np.int64), 0)
        below = np.where(is_operator, len(OPERATORS), 10)
        levels.append(Level(parent, (random.random_sample(len(parent)) * below).astype(np.int64), num_args))
        parent = np.repeat(np.arange(len(parent)), num_args)
    return levels


def lengths(levels: list[Level]) -> list[Numbers]:
    """Return how many words each node of each level stands for: one, or its arguments' and two."""
    found = [np.ones(len(levels[-1].parent), np.int64)]
    for level, below in zip(levels[-2::-1], levels[:0:-1], strict=True):
        inside = np.bincount(below.parent, found[0], len(level.parent)).astype(np.int64)
        found.insert(0, np.where(level.is_operator, inside + 2, 1))
    return found


def values(levels: list[Level]) -> Numbers:
    """Return what each root comes to."""
    found = levels[-1].choice
    for level, below in zip(levels[-2::-1], levels[:0:-1], strict=True):
        value = level.choice.copy()
        if len(found):
            value[level.is_operator] = _applied(level, found, below.parent)
        found = value
    return found


def _applied(level: Level, arguments: Numbers, parent: Numbers) -> Numbers:
    """Return the values of a level's operators: the least, the greatest, the median rounded down, the sum modulo 10."""
    num_args = level.num_args[level.is_operator]
    first = np.cumsum(num_args) - num_args
    ordered = arguments[np.lexsort((arguments, parent))]
    median = (ordered[first + (num_args - 1) // 2] + ordered[first + num_args // 2]) // 2
    outcomes = (ordered[first], ordered[first + num_args - 1], median, np.add.reduceat(arguments, first) % 10)
    return np.choose(level.choice[level.is_operator], outcomes)


def write(levels: list[Level], sizes: list[Numbers], kept_R: NDArray[np.bool_], width: int) -> Numbers:
    """Return the words of the kept trees, each at the end of a row of so many, behind words 0."""
    rows, start = np.cumsum(kept_R) - 1, width - sizes[0]
    words = np.zeros((int(kept_R.sum()), width), np.int64)
    root = np.arange(len(kept_R))
    for depth, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        if depth:
            root, start = root[level.parent], _starts(start, level, size)
        kept = kept_R[root]
        words[rows[root[kept]], start[kept]] = (level.choice + np.where(level.is_operator, 11, 1))[kept]
        ends = kept & level.is_operator
        words[rows[root[ends]], (start + size - 1)[ends]] = END
    return words


def _starts(start_above: Numbers, level: Level, size: Numbers) -> Numbers:
    """Return where the nodes of a level begin: behind their operator and those that stand before them."""
    before = np.cumsum(size) - size
    first = np.searchsorted(level.parent, level.parent)
    return start_above[level.parent] + 1 + before - before[first]
