"""N samples, T time (context), P words to copy."""

from __future__ import annotations

import numpy as np

from archlab import ArchlabError, Count, register
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.task import IGNORED


@register("task", "selective_copying")
class SelectiveCopying(SyntheticTask):
    """Copy words in their order, and not the blanks between them, MAD's selective copying (arXiv:2403.17844, 3.1).

    `num_tokens` words stand among blanks; then a word says that they are to be copied, and as many blanks follow, where
    they are asked for. The blank is word vocab_size - 2, the order to copy vocab_size - 1.
    Raises ValueError for a vocabulary without a word to copy.
    Deviations: every choice of places is equally likely; in MAD's code the last word stands right before the order.
    """

    def __init__(
        self,
        *,
        vocab_size: Count = 16,
        num_tokens: Count = 16,
        train_size: Count | None = 12800,
        eval_size: Count = 1280,
        data_seed: Count = 1,
    ) -> None:
        super().__init__(vocab_size, train_size, eval_size, data_seed)
        if vocab_size < 3:
            raise ValueError(f"vocab_size {vocab_size} leaves no word to copy beside a blank and the order to copy")
        self.num_tokens = num_tokens

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the words fit twice, and the order between."""
        if context <= 2 * self.num_tokens:
            need = f"{self.num_tokens} words, the order to copy and their copies need {2 * self.num_tokens + 1}"
            raise ArchlabError(f"selective_copying: {need} inputs, more than train.context {context}")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        words_NP = random.randint(0, self.vocab_size - 2, (count, self.num_tokens), np.int64)
        room = context - self.num_tokens - 1
        chance = random.random_sample((count, room))
        places_NP = np.sort(np.argsort(chance, 1, kind="stable")[:, : self.num_tokens], 1)
        inputs_NT = np.full((count, context), self.vocab_size - 2)
        np.put_along_axis(inputs_NT, places_NP, words_NP, 1)
        inputs_NT[:, room] = self.vocab_size - 1
        targets_NT = np.full((count, context), IGNORED)
        targets_NT[:, room + 1 :] = words_NP
        return inputs_NT, targets_NT
