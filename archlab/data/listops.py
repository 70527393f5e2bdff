"""Random expressions of ListOps (arXiv:1804.06028), many at a time.

All nodes of one depth form a level; the arguments of a node are adjacent in the next level. R roots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

IntArray: TypeAlias = NDArray[np.int64]
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
VOCABULARY = ("", *"0123456789", *OPERATORS, "]")  # token 0 is padding
CLOSE = len(VOCABULARY) - 1
OPERATOR_FRACTION = 0.25  # of the nodes above the maximum depth, as in Long Range Arena's generator


@dataclass(frozen=True)
class Level:
    """The nodes of one depth: the parent of each, its digit or operator, and its number of arguments."""

    parent: IntArray
    choice: IntArray
    num_args: IntArray

    @property
    def is_operator(self) -> NDArray[np.bool_]:
        """Whether each node is an operator, which alone has arguments."""
        return self.num_args > 0


def grow_trees(random: np.random.RandomState, count: int, max_depth: int, max_args: int) -> list[Level]:
    """Return the levels of `count` random trees from the distribution of Long Range Arena (arXiv:2011.04006).

    A node above the maximum depth is an operator with probability 1/4, each of the four equally likely, with 2 to
    `max_args` arguments.
    """
    levels, parent = [], np.zeros(count, np.int64)
    for depth in range(1, max_depth + 1):
        is_operator = (random.random_sample(len(parent)) < OPERATOR_FRACTION) & (depth < max_depth)
        num_args = np.where(is_operator, random.randint(2, max_args + 1, len(parent), np.int64), 0)
        num_choices = np.where(is_operator, len(OPERATORS), 10)
        levels.append(Level(parent, (random.random_sample(len(parent)) * num_choices).astype(np.int64), num_args))
        parent = np.repeat(np.arange(len(parent)), num_args)
    return levels


def count_tokens(levels: list[Level]) -> list[IntArray]:
    """Return the number of tokens of each node of each level: one, or those of its arguments and two brackets."""
    counts = [np.ones(len(levels[-1].parent), np.int64)]
    for level, below in zip(levels[-2::-1], levels[:0:-1], strict=True):
        inside = np.bincount(below.parent, counts[0], len(level.parent)).astype(np.int64)
        counts.insert(0, np.where(level.is_operator, inside + 2, 1))
    return counts


def evaluate_trees(levels: list[Level]) -> IntArray:
    """Return the value of each root, a digit."""
    values = levels[-1].choice  # the deepest level has no operators
    for level, below in zip(levels[-2::-1], levels[:0:-1], strict=True):
        value = level.choice.copy()
        if len(values):
            value[level.is_operator] = _apply_operators(level, values, below.parent)
        values = value
    return values


def _apply_operators(level: Level, arguments: IntArray, parent: IntArray) -> IntArray:
    """Return the values of a level's operators: minimum, maximum, median rounded down, sum modulo 10."""
    num_args = level.num_args[level.is_operator]
    first = np.cumsum(num_args) - num_args
    # Arguments sorted within each parent: parents are in order, so each keeps its range [first, first + num_args).
    ordered = arguments[np.lexsort((arguments, parent))]
    median = (ordered[first + (num_args - 1) // 2] + ordered[first + num_args // 2]) // 2
    results = (ordered[first], ordered[first + num_args - 1], median, np.add.reduceat(arguments, first) % 10)
    return np.choose(level.choice[level.is_operator], results)


def encode_trees(levels: list[Level], sizes: list[IntArray], kept_R: NDArray[np.bool_], context: int) -> IntArray:
    """Return the tokens [kept, context] of the kept trees, padded with tokens 0 on the left."""
    rows, start = np.cumsum(kept_R) - 1, context - sizes[0]
    tokens = np.zeros((int(kept_R.sum()), context), np.int64)
    root = np.arange(len(kept_R))
    for depth, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        if depth:
            root, start = root[level.parent], _start_offsets(start, level, size)
        kept = kept_R[root]
        # Digits are tokens 1 to 10, operators 11 to 14: see VOCABULARY.
        tokens[rows[root[kept]], start[kept]] = (level.choice + np.where(level.is_operator, 11, 1))[kept]
        closed = kept & level.is_operator
        tokens[rows[root[closed]], (start + size - 1)[closed]] = CLOSE
    return tokens


def _start_offsets(parent_start: IntArray, level: Level, size: IntArray) -> IntArray:
    """Return the first position of each node of a level: after its operator and the arguments before it."""
    before = np.cumsum(size) - size
    first = np.searchsorted(level.parent, level.parent)  # the first argument of the same parent
    return parent_start[level.parent] + 1 + before - before[first]
