"""Reproducible orders and random numbers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4)
def order(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the numbers below `size` in the order of an epoch."""
    return random_state(seed, epoch).permutation(size)


def random_state(*seeds: int) -> np.random.RandomState:
    """Return random numbers whose stream is the same in every version of numpy."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seeds)))
