"""Names of splits, and splitting by hash.

N samples, T time (context).
"""

from __future__ import annotations

import hashlib
import os
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archlab.data.sampling import random_state

SPLITS = ("train", "validation", "test")
MIXERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64's finalizer

Overflow: TypeAlias = Literal["refuse", "cut"]


def hash_fraction(name: str) -> float:
    """Return the SHA-256 of a name as a number in [0, 1]: a position among splits that no other name influences."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64


def split_by_tokens(tokens_NT: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index in SPLITS of each sample [N], by a hash of its tokens: 6/8 are train, 1/8 each held out.

    Tokens 0 at the start, which are padding, do not change the hash.
    """
    # The factors run backwards from the end of a sample, so that they do not depend on the padding in front; they are
    # odd, and thus invertible modulo 2**64.
    factors_T = random_state(0).randint(0, 2**63, (tokens_NT.shape[1],), dtype=np.uint64)[::-1] | np.uint64(1)
    hash_N = (tokens_NT.astype(np.uint64) * factors_T).sum(1)
    for factor in MIXERS:
        hash_N = (hash_N ^ (hash_N >> np.uint64(31))) * np.uint64(factor)
    return np.array([1, 2, 0, 0, 0, 0, 0, 0])[(hash_N >> np.uint64(61)).astype(np.int64)]
