"""N samples, T time (context)."""

from __future__ import annotations

import numpy as np

from archlab import ArchlabError, Count, register
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.task import IGNORED


@register("task", "compression")
class Compression(SyntheticTask):
    """Say every word of a sample again, from what its last position knows, MAD's compression (arXiv:2403.17844, 3.1).

    Random words end with word vocab_size - 1, which asks for all of them. It is a test of memory where the model's
    head is `reconstruction`, which sees the last position alone; other heads can copy each word from where it stands.
    Raises ValueError for a vocabulary without a word to say again.
    Deviations: the last word itself, always the same, is not asked for.
    """

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
            raise ValueError(f"vocab_size {vocab_size} has no word beside the one that asks")

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless there is a word to say again."""
        if context < 2:
            raise ArchlabError(f"compression: a word and the one that asks need 2 inputs, not train.context {context}")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        inputs_NT = random.randint(0, self.vocab_size - 1, (count, context), np.int64)
        inputs_NT[:, -1] = self.vocab_size - 1
        targets_NT = inputs_NT.copy()
        targets_NT[:, -1] = IGNORED
        return inputs_NT, targets_NT
