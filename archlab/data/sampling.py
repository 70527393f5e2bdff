"""Reproducible orders and random numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Order: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.int64]]
MAX_STORED = 2**24  # windows of a mapped corpus, whose order takes 128 MB
_ROUNDS = 6


def random_state(*seeds: int) -> np.random.RandomState:
    """Return a generator whose stream is the same in every version of numpy."""
    # RandomState is frozen by numpy's policy (NEP 19), while the methods of np.random.Generator may change their
    # streams. SeedSequence mixes several seeds into one without correlated streams.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seeds)))


def permutation(random: np.random.RandomState, size: int, max_stored: int) -> Order:
    """Return a permutation of the indices below `size` as a function; one of more than `max_stored` takes no memory."""
    if size <= max_stored:
        stored: NDArray[np.int64] = random.permutation(size)
        return stored.__getitem__
    return partial(_feistel, size, random.randint(0, 2**32, _ROUNDS, np.uint64))


def _feistel(size: int, keys: NDArray[np.uint64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Permute indices below `size` by a Feistel network over the next even number of bits.

    Values outside of `size` are permuted again until they are inside (cycle walking), fewer than three times on
    average.
    """
    half = np.uint64(-(-(size - 1).bit_length() // 2))
    mask = np.uint64((1 << int(half)) - 1)
    values = indices.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right, key) & mask)
        values[outside] = (left << half) | right
        outside = values >= size
    return values.astype(np.int64)


def _mix(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Return a hash of values under a key: the finalizer of SplitMix64."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15) + key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


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
    """Return `count` different numbers below `size` in each of several rows, all arrangements equally likely."""
    # The first `count` steps of a Fisher-Yates shuffle, for all rows at once.
    numbers, row = np.tile(np.arange(size), (rows, 1)), np.arange(rows)
    offsets = (random.random_sample((rows, count)) * (size - np.arange(count))).astype(np.int64)
    for place in range(count):
        other = place + offsets[:, place]
        numbers[row, other], numbers[row, place] = numbers[row, place].copy(), numbers[row, other].copy()
    return numbers[:, :count]
