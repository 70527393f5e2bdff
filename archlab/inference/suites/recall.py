"""Multi-query associative recall by the number of pairs and by length, as Zoology plots it (arXiv:2312.04927)."""

from __future__ import annotations

from functools import partial

from archlab.inference.difficulty import accuracy_by_difficulty

SUITE = partial(accuracy_by_difficulty, "recall")
