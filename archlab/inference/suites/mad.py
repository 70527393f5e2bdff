"""The synthetic tasks of MAD by length, noise and tokens to copy, as its paper plots them (arXiv:2403.17844)."""

from __future__ import annotations

from functools import partial

from archlab.inference.difficulty import accuracy_by_difficulty

SUITE = partial(accuracy_by_difficulty, "mad")
