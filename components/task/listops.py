"""N samples, T time (context), R trees."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np

from archlab import LARGEST, ArchlabError, Count, Range, register
from archlab.components.task._synthetic import SyntheticTask, Tokens

from ._trees import WORDS, grow, lengths, values, write

Several: TypeAlias = Annotated[int, Range(low=2, high=LARGEST)]
TREES, DRAWS = 256, 2000


@register("task", "listops")
class ListOps(SyntheticTask):
    """Say what an expression in lists comes to, one digit: ListOps (arXiv:1804.06028) of the Long Range Arena.

    Expressions are made by that arena's grammar (arXiv:2011.04006). Such ones as [MAX 4 3 [MIN 2 3 ] 1 0 ] are of MIN,
    MAX, MED (the median, rounded down) and SM (the sum modulo 10). They have more than `min_length` and fewer than
    `max_length` words, and stand at the end of a sample, behind words 0. Raises ValueError where no length is left.
    Deviations: endless unless `train_size` says otherwise (there 96000); expressions are told apart by a hash.
    """

    per_sample = True
    metrics = ("loss", "accuracy")

    def __init__(
        self,
        *,
        max_depth: Count = 10,
        max_args: Several = 10,
        min_length: Count = 500,
        max_length: Count = 2000,
        train_size: Count | None = None,
        eval_size: Count = 2000,
        data_seed: Count = 1,
    ) -> None:
        super().__init__(len(WORDS), train_size, eval_size, data_seed)
        self.num_classes = 10
        if max_length < min_length + 2:
            raise ValueError(f"no length is more than min_length {min_length} and less than max_length {max_length}")
        self.max_depth, self.max_args = max_depth, max_args
        self.min_length, self.max_length = min_length, max_length

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the longest expressions fit."""
        if context < self.max_length - 1:
            need = f"expressions of {self.max_length - 1} words (max_length - 1)"
            raise ArchlabError(f"listops: {need} do not fit in train.context {context}")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs [N, T] and digits [N]."""
        made: list[tuple[Tokens, Tokens]] = []
        for _ in range(DRAWS):
            levels = grow(random, TREES, self.max_depth, self.max_args)
            sizes = lengths(levels)
            kept_R = (sizes[0] > self.min_length) & (sizes[0] < self.max_length)
            made.append((write(levels, sizes, kept_R, context), values(levels)[kept_R]))
            if sum(len(digits) for _, digits in made) >= count:
                inputs, digits = (np.concatenate(part)[:count] for part in zip(*made, strict=True))
                return inputs, digits
        reach = f"{self.min_length} to {self.max_length} words, max_depth {self.max_depth}, max_args {self.max_args}"
        raise ArchlabError(f"listops: next to no expressions are of {reach}")
