"""N samples, T time (context), R trees."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np

from archlab import LARGEST, ArchlabError, Count, Range, register
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.listops import VOCABULARY, count_tokens, encode_trees, evaluate_trees, grow_trees

Several: TypeAlias = Annotated[int, Range(low=2, high=LARGEST)]
TREES = 256  # grown at a time
MAX_DRAWS = 2000  # after which settings count as impossible


@register("task", "listops")
class ListOps(SyntheticTask):
    """Evaluate a nested expression to a digit: ListOps (arXiv:1804.06028) of the Long Range Arena (arXiv:2011.04006).

    Expressions such as [MAX 4 3 [MIN 2 3 ] 1 0 ] are of MIN, MAX, MED (the median, rounded down) and SM (the sum
    modulo 10). A sample is padded with tokens 0 on the left. Raises ValueError if no length lies between the limits.

    Deviations: training samples are endless unless `train_size` is set (96000 there); a hash splits the expressions.

    Args:
        max_depth: Maximum depth of the trees, leaves included.
        max_args: Maximum number of arguments of an operator; the minimum is 2.
        min_length: Number of tokens that every expression exceeds.
        max_length: Number of tokens that every expression stays below.
        train_size: Number of training samples; null draws new samples at every step.
        eval_size: Number of validation samples, and of test samples.
        data_seed: Seed of the samples, independent of the run's seed.
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
        super().__init__(len(VOCABULARY), train_size, eval_size, data_seed)
        self.num_classes = 10
        if max_length < min_length + 2:
            raise ValueError(f"no length is more than min_length {min_length} and less than max_length {max_length}")
        self.max_depth, self.max_args = max_depth, max_args
        self.min_length, self.max_length = min_length, max_length

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the longest expressions fit."""
        if context < self.max_length - 1:
            need = f"expressions of {self.max_length - 1} tokens (max_length - 1)"
            raise ArchlabError(f"listops: {need} do not fit in train.context {context}")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs [N, T] and digits [N]."""
        made: list[tuple[Tokens, Tokens]] = []
        for _ in range(MAX_DRAWS):
            levels = grow_trees(random, TREES, self.max_depth, self.max_args)
            sizes = count_tokens(levels)
            kept_R = (sizes[0] > self.min_length) & (sizes[0] < self.max_length)
            made.append((encode_trees(levels, sizes, kept_R, context), evaluate_trees(levels)[kept_R]))
            if sum(len(digits) for _, digits in made) >= count:
                inputs, digits = (np.concatenate(part)[:count] for part in zip(*made, strict=True))
                return inputs, digits
        limits = f"{self.min_length} to {self.max_length} tokens, max_depth {self.max_depth}, max_args {self.max_args}"
        raise ArchlabError(f"listops: almost no expressions have {limits}")
