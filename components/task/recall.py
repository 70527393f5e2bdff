"""N samples, T time (context), P pairs, S positions of queries."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from archlab import ArchlabError, Count, Positive, register
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.sampling import sample_without_replacement
from archlab.data.task import IGNORED


@register("task", "recall")
class Recall(SyntheticTask):
    """Recall the value of each of several keys, multi-query associative recall (Zoology, arXiv:2312.04927).

    A sample begins with pairs of a key and a value, all different; later each key occurs once more as a query, whose
    target is its value. Queries are at every second position, the n-th with probability proportional to
    n^(power_a - 1). Keys are tokens of the first half of the vocabulary except 0, values those of the second half.
    Raises ValueError for a vocabulary with fewer keys than pairs.

    Deviations: training samples are endless unless `train_size` is set (100000 in the paper).

    Args:
        vocab_size: Number of tokens: 0, keys and values.
        num_pairs: Number of key-value pairs of each sample, and of its queries.
        power_a: Exponent of the queries' positions: small values place queries early, 1 spreads them evenly.
        random_non_queries: Whether the tokens between the queries are random; otherwise they are 0.
        train_size: Number of training samples; null draws new samples at every step.
        eval_size: Number of validation samples, and of test samples.
        data_seed: Seed of the samples, independent of the run's seed.
    """

    benchmark = "recall"
    difficulties: ClassVar = {"num_pairs": (4, 8, 16, 32, 64, 128, 256), "context": (64, 128, 256, 512, 1024)}

    def __init__(
        self,
        *,
        vocab_size: Count = 8192,
        num_pairs: Count = 8,
        power_a: Positive = 0.01,
        random_non_queries: bool = True,
        train_size: Count | None = None,
        eval_size: Count = 3000,
        data_seed: Count = 1,
    ) -> None:
        super().__init__(vocab_size, train_size, eval_size, data_seed)
        if vocab_size // 2 - 1 < num_pairs:
            raise ValueError(f"vocab_size {vocab_size} has {vocab_size // 2 - 1} keys for num_pairs {num_pairs}")
        self.num_pairs, self.power_a, self.random_non_queries = num_pairs, power_a, random_non_queries

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the pairs and their queries fit."""
        if context < 4 * self.num_pairs:
            need = f"{self.num_pairs} pairs and their queries need {4 * self.num_pairs} tokens"
            raise ArchlabError(f"recall: {need}, more than train.context {context}")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        half, pairs = self.vocab_size // 2, self.num_pairs
        keys_NP = 1 + sample_without_replacement(random, count, half - 1, pairs)
        values_NP = half + sample_without_replacement(random, count, self.vocab_size - half, pairs)
        positions_NP = 2 * pairs + 2 * self._sample_positions(random, count, (context - 2 * pairs) // 2)
        inputs_NT = random.randint(0, self.vocab_size if self.random_non_queries else 1, (count, context), np.int64)
        inputs_NT[:, 0 : 2 * pairs : 2], inputs_NT[:, 1 : 2 * pairs : 2] = keys_NP, values_NP
        targets_NT = np.full((count, context), IGNORED)
        np.put_along_axis(inputs_NT, positions_NP, keys_NP, 1)
        np.put_along_axis(targets_NT, positions_NP, values_NP, 1)
        return inputs_NT, targets_NT

    def _sample_positions(self, random: np.random.RandomState, count: int, num_positions: int) -> Tokens:
        """Draw a position for each pair, weighted and without replacement."""
        # Exponential waiting times with the weights as rates end in the order of successive weighted draws (the
        # Efraimidis-Spirakis method), for all samples at once.
        weight_S = np.arange(1, num_positions + 1) ** (self.power_a - 1.0)
        waits_NS = random.standard_exponential((count, num_positions)) / weight_S
        return np.argsort(waits_NS, axis=1, kind="stable")[:, : self.num_pairs]
