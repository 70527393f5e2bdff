"""N samples, T time (context)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from archlab import ArchlabError, Count, register
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.task import IGNORED


@register("task", "compression")
class Compression(SyntheticTask):
    """Reconstruct every token of a sample from its last position, MAD's compression (arXiv:2403.17844, 3.1).

    Random tokens are followed by the query token, vocab_size - 1. The task tests compression only with the head
    `reconstruction`, which reads the last position alone; other heads can copy each token from its own position.
    Raises ValueError for a vocabulary of the query token alone.

    Deviations: the query token, which is always the same, is not a target.

    Args:
        vocab_size: Number of tokens, the query token included.
        train_size: Number of training samples; null draws new samples at every step.
        eval_size: Number of validation samples, and of test samples.
        data_seed: Seed of the samples, independent of the run's seed.
    """

    benchmark = "mad"
    difficulties: ClassVar = {"context": (32, 64, 128, 256)}

    def __init__(
        self,
        *,
        vocab_size: Count = 16,
        train_size: Count | None = 12800,
        eval_size: Count = 1280,
        data_seed: Count = 1,
    ) -> None:
        super().__init__(vocab_size, train_size, eval_size, data_seed)
        if vocab_size < 2:
            raise ValueError(f"vocab_size {vocab_size} has no token besides the query token")

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the context holds a token and the query token."""
        if context < 2:
            raise ArchlabError(f"compression: a token and the query token need 2 inputs, not train.context {context}")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        inputs_NT = random.randint(0, self.vocab_size - 1, (count, context), np.int64)
        inputs_NT[:, -1] = self.vocab_size - 1
        targets_NT = inputs_NT.copy()
        targets_NT[:, -1] = IGNORED
        return inputs_NT, targets_NT
