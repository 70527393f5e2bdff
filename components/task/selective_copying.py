"""N samples, T time (context), P tokens to copy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from archlab import ArchlabError, Count, register
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.task import IGNORED


@register("task", "selective_copying")
class SelectiveCopying(SyntheticTask):
    """Copy the tokens of a sample in order, without the blanks between them, MAD's task (arXiv:2403.17844, 3.1).

    Tokens to copy are scattered among blanks, token vocab_size - 2; then follow the copy token, vocab_size - 1, and as
    many blanks, whose targets are the tokens. Raises ValueError for a vocabulary without a token to copy.

    Deviations: all choices of positions are equally likely; in MAD's code the last token precedes the copy token.

    Args:
        vocab_size: Number of tokens, blank and copy token included.
        num_tokens: Number of tokens to copy in each sample.
        train_size: Number of training samples; null draws new samples at every step.
        eval_size: Number of validation samples, and of test samples.
        data_seed: Seed of the samples, independent of the run's seed.
    """

    benchmark = "mad"
    difficulties: ClassVar = {"num_tokens": (16, 32, 64, 96), "context": (256, 512, 1024)}

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
            raise ValueError(f"vocab_size {vocab_size} leaves no token to copy besides the blank and the copy token")
        self.num_tokens = num_tokens

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless the tokens, the copy token and the copies fit."""
        if context <= 2 * self.num_tokens:
            need = f"{self.num_tokens} tokens, the copy token and their copies need {2 * self.num_tokens + 1}"
            raise ArchlabError(f"selective_copying: {need} inputs, more than train.context {context}")

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        tokens_NP = random.randint(0, self.vocab_size - 2, (count, self.num_tokens), np.int64)
        copy_at = context - self.num_tokens - 1
        # The positions of the smallest of independent random numbers are a uniform choice without replacement.
        draws = random.random_sample((count, copy_at))
        positions_NP = np.sort(np.argsort(draws, 1, kind="stable")[:, : self.num_tokens], 1)
        inputs_NT = np.full((count, context), self.vocab_size - 2)
        np.put_along_axis(inputs_NT, positions_NP, tokens_NP, 1)
        inputs_NT[:, copy_at] = self.vocab_size - 1
        targets_NT = np.full((count, context), IGNORED)
        targets_NT[:, copy_at + 1 :] = tokens_NP
        return inputs_NT, targets_NT
