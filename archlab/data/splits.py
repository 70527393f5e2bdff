"""The names of splits, and splitting by name."""

from __future__ import annotations

import hashlib
import os
from typing import Literal, TypeAlias

SPLITS = ("train", "validation", "test")


Overflow: TypeAlias = Literal["refuse", "cut"]


def hash_fraction(name: str) -> float:
    """Return a number from 0 to 1 that a name has by its SHA-256, to split what has names by."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / 2**64
