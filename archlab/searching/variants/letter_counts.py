"""Patterns of letters under bounds on their counts: how many there are, and an allowed one near any other."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from math import comb
from typing import TypeAlias

import numpy as np

_MAX_TABLE = 10_000  # wished patterns, all of which are laid out beforehand: a second's work

Bounds: TypeAlias = tuple[tuple[int, int], ...]  # of each letter: at least, at most


@lru_cache(maxsize=65_536)
def count_patterns(bounds: Bounds, length: int) -> int:
    """Return the number of patterns of a length in which the count of every letter is within its bounds."""
    if not bounds:
        return int(length == 0)
    (low, high), rest = bounds[0], bounds[1:]
    counts = range(max(low, 0), min(high, length) + 1)
    return sum(comb(length, count) * count_patterns(rest, length - count) for count in counts)


def allowed_pattern(wished: str, bounds: Mapping[str, tuple[int, int]]) -> str:
    """Return the pattern that stands for a wished one: itself if it is allowed, as a rule, and always the same one.

    All allowed patterns are about equally likely when all wished ones are, so that random search is fair to them. A
    model of which letter is good where, as TPE's, holds on: changes are in few positions.
    """
    if len(bounds) ** len(wished) <= _MAX_TABLE:
        return _table(tuple(bounds.items()), len(wished))[wished]
    return _likely_pattern(wished, bounds)


@lru_cache(maxsize=16)
def _table(bounds: tuple[tuple[str, tuple[int, int]], ...], length: int) -> dict[str, str]:
    """Map every pattern to an allowed one, each of which gets as many as any other, the nearest that are left."""
    wished = ["".join(letters) for letters in product((letter for letter, _ in bounds), repeat=length)]
    allowed = [w for w in wished if all(low <= w.count(letter) <= high for letter, (low, high) in bounds)]
    table, order = {w: w for w in allowed}, random.Random(0)
    others = [w for w in wished if w not in table]
    order.shuffle(allowed)  # or ties would go to the first letters
    order.shuffle(others)
    matrix, load = _as_bytes(allowed), np.ones(len(allowed), dtype=int)
    share = len(wished) // len(allowed)
    for other in others:
        is_full = load >= (share if load.min() < share else share + 1)
        nearest = int(((matrix != _as_bytes([other])).sum(1) + is_full * (length + 1)).argmin())
        table[other] = allowed[nearest]
        load[nearest] += 1
    return table


def _as_bytes(patterns: Sequence[str]) -> np.ndarray:
    return np.frombuffer("".join(patterns).encode(), dtype=np.uint8).reshape(len(patterns), -1)


def _likely_pattern(wished: str, bounds: Mapping[str, tuple[int, int]]) -> str:
    """Keep the letter of each position with as high a probability as makes all allowed patterns equally likely.

    This is the coupling of both distributions with the fewest changes, letter by letter. The chances are drawn from
    the wished pattern itself.
    """
    chance, letters, left = random.Random(wished), list(bounds), dict(bounds)
    pattern = ""
    for position, wish in enumerate(wished):
        letter = wish
        counts = first_letter_counts(left, len(wished) - position - 1)
        total = sum(counts.values())
        if chance.randrange(total) >= counts[wish] * len(letters):
            gains = {other: count * len(letters) - total for other, count in counts.items()}
            gaining = [other for other in letters if gains[other] > 0]
            letter = chance.choices(gaining, [gains[other] for other in gaining])[0]
        pattern, left = pattern + letter, without(letter, left)
    return pattern


def first_letter_counts(left: Mapping[str, tuple[int, int]], length: int) -> dict[str, int]:
    """Return how many of the remaining patterns begin with each letter, with a given number of letters after it."""
    return {letter: count_patterns(tuple(without(letter, left).values()), length) for letter in left}


def without(letter: str, left: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return the bounds of the letters that follow a letter."""
    return {**left, letter: (max(left[letter][0] - 1, 0), left[letter][1] - 1)}
