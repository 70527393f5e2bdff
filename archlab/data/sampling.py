"""Reproducible orders and random numbers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def random_state(*seeds: int) -> np.random.RandomState:
    """Return a generator whose stream is the same in every version of numpy."""
    # RandomState is frozen by numpy's policy (NEP 19), while the methods of np.random.Generator may change their
    # streams. SeedSequence mixes several seeds into one without correlated streams.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seeds)))


@lru_cache(maxsize=4)
def epoch_order(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the permutation of the indices below `size` for one epoch."""
    return random_state(seed, epoch).permutation(size)


@lru_cache(maxsize=4)
def block_order(size: int, block: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the indices below `size` with their blocks permuted for one epoch, in order within each block."""
    blocks = random_state(seed, epoch).permutation(-(-size // block))
    indices = (blocks[:, None] * block + np.arange(block)).ravel()
    return indices[indices < size]


def sample_without_replacement(random: np.random.RandomState, rows: int, size: int, count: int) -> NDArray[np.int64]:
    """Return `count` different numbers below `size` in each of so many rows, all arrangements equally likely."""
    # The first `count` steps of a Fisher-Yates shuffle, for all rows at once.
    numbers, row = np.tile(np.arange(size), (rows, 1)), np.arange(rows)
    offsets = (random.random_sample((rows, count)) * (size - np.arange(count))).astype(np.int64)
    for place in range(count):
        other = place + offsets[:, place]
        numbers[row, other], numbers[row, place] = numbers[row, place].copy(), numbers[row, other].copy()
    return numbers[:, :count]
