"""N samples, T time (context), P pairs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from archlab import ArchlabError, Count, register
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.sampling import random_state
from archlab.data.task import IGNORED


@register("task", "memorization")
class Memorization(SyntheticTask):
    """Memorize a fixed mapping from keys to values, MAD's memorization (arXiv:2403.17844, 3.1).

    A sample is a sequence of keys, each followed by the query token, vocab_size - 1, whose target is the key's value;
    values are never inputs, so that only the weights can hold them. The first half of the other tokens are keys; each
    has its own value in the second half, the same in every sample. Raises ValueError for a vocabulary without a key.

    Args:
        vocab_size: Number of tokens: keys, values and the query token.
        train_size: Number of training samples; null draws new samples at every step.
        eval_size: Number of validation samples, and of test samples.
        data_seed: Seed of the samples and of the mapping, independent of the run's seed.
    """

    benchmark = "mad"
    difficulties: ClassVar = {"context": (32, 64, 128, 256)}

    def __init__(
        self,
        *,
        vocab_size: Count = 256,
        train_size: Count | None = 256,
        eval_size: Count = 1280,
        data_seed: Count = 1,
    ) -> None:
        super().__init__(vocab_size, train_size, eval_size, data_seed)
        if vocab_size < 3:
            raise ValueError(f"vocab_size {vocab_size} has no key besides a value and the query token")
        self.num_keys = (vocab_size - 1) // 2
        # Stream 3 is none of the samples': those begin with the index of a split, 0 to 2.
        self.values = self.num_keys + random_state(data_seed, 3).permutation(vocab_size - 1 - self.num_keys)

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is even."""
        if context % 2:
            raise ArchlabError(f"memorization: train.context {context} is odd: a key and its query are two tokens")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        keys_NP = random.randint(0, self.num_keys, (count, context // 2), np.int64)
        inputs_NT, targets_NT = np.full((count, context), self.vocab_size - 1), np.full((count, context), IGNORED)
        inputs_NT[:, ::2], targets_NT[:, 1::2] = keys_NP, self.values[keys_NP]
        return inputs_NT, targets_NT
