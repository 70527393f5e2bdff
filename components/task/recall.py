"""N samples, T time (context), P pairs, S places of queries."""

from __future__ import annotations

import numpy as np

from archlab import ArchlabError, Count, Positive, register
from archlab.components.task._synthetic import SyntheticTask, Tokens, distinct
from archlab.data.task import IGNORED


@register("task", "recall")
class Recall(SyntheticTask):
    """Recall what went with each of several keys, multi-query associative recall (Zoology, arXiv:2312.04927).

    A sample begins with `num_pairs` pairs of a key and a value, all different; later each key comes once more, and its
    value is asked for there. A query stands at every second place, the n-th with a probability that goes as
    n^(power_a - 1), so that small powers draw queries to the front, and 1 spreads them. Between the queries are random
    words, or word 0 without `random_non_queries`. Keys are words of the first half but for 0, values of the second.
    Raises ValueError for a vocabulary with fewer keys than pairs.
    Deviations: samples to learn from are endless unless `train_size` says otherwise (100000 in the paper).
    """

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
            need = f"{self.num_pairs} pairs and their queries need {4 * self.num_pairs} words"
            raise ArchlabError(f"recall: {need}, more than train.context {context}")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        half, pairs = self.vocab_size // 2, self.num_pairs
        keys_NP = 1 + distinct(random, count, half - 1, pairs)
        values_NP = half + distinct(random, count, self.vocab_size - half, pairs)
        at_NP = 2 * pairs + 2 * self._places(random, count, (context - 2 * pairs) // 2)
        inputs_NT = random.randint(0, self.vocab_size if self.random_non_queries else 1, (count, context), np.int64)
        inputs_NT[:, 0 : 2 * pairs : 2], inputs_NT[:, 1 : 2 * pairs : 2] = keys_NP, values_NP
        targets_NT = np.full((count, context), IGNORED)
        np.put_along_axis(inputs_NT, at_NP, keys_NP, 1)
        np.put_along_axis(targets_NT, at_NP, values_NP, 1)
        return inputs_NT, targets_NT

    def _places(self, random: np.random.RandomState, count: int, num_places: int) -> Tokens:
        """Draw a place for each pair, one after the other without return: the first to come in a race of waits."""
        weight_S = np.arange(1, num_places + 1) ** (self.power_a - 1.0)
        waits_NS = random.standard_exponential((count, num_places)) / weight_S
        return np.argsort(waits_NS, axis=1, kind="stable")[:, : self.num_pairs]
