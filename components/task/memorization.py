"""N samples, T time (context), P pairs."""

from __future__ import annotations

import numpy as np

from archlab import ArchlabError, Count, register
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.sampling import random_state
from archlab.data.task import IGNORED


@register("task", "memorization")
class Memorization(SyntheticTask):
    """Learn by heart which value goes with which key, MAD's memorization (arXiv:2403.17844, 3.1).

    Samples are keys, each followed by word vocab_size - 1, where the key's value is asked for and which no input says.
    The first half of the other words are keys; each has a value of its own in the second, the same in every sample.
    Raises ValueError for a vocabulary without a key.
    """

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
            raise ValueError(f"vocab_size {vocab_size} has no key beside a value and the word that asks for it")
        self.num_keys = (vocab_size - 1) // 2
        self.values = self.num_keys + random_state(data_seed, 3).permutation(vocab_size - 1 - self.num_keys)

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context is whole pairs."""
        if context % 2:
            raise ArchlabError(f"memorization: train.context {context} is odd: a key and its question are two words")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        keys_NP = random.randint(0, self.num_keys, (count, context // 2), np.int64)
        inputs_NT, targets_NT = np.full((count, context), self.vocab_size - 1), np.full((count, context), IGNORED)
        inputs_NT[:, ::2], targets_NT[:, 1::2] = keys_NP, self.values[keys_NP]
        return inputs_NT, targets_NT
