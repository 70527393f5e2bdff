"""In-context recall tasks in the manner of MAD (arXiv:2403.17844): the value of a key that occurred before.

N samples, T time (context), P pairs, W tokens of a pair.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archlab import ArchlabError
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.task import IGNORED

Learn: TypeAlias = Literal["every_word", "answers"]


class InContextTask(SyntheticTask):
    """Predict the next token; the answers are the values of keys that occurred before.

    With `multi_query` every such value is an answer; without, only that of the last pair, which follows a query token.
    Training learns `every_word`, the next token everywhere, or the `answers` alone; evaluation asks for answers only.
    """

    predicts_next = True
    benchmark = "mad"
    difficulties: ClassVar = {"context": (128, 256, 512, 1024)}
    multi_query: bool
    learn: Learn

    @abstractmethod
    def make_tokens(
        self, random: np.random.RandomState, count: int, context: int, split: str
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return tokens [N, T + 1], and whether each is an answer."""

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        tokens, answers = self.make_tokens(random, count, context, split)
        asked = answers[:, 1:] | (split == "train" and self.learn == "every_word")
        return tokens[:, :-1], np.where(asked, tokens[:, 1:], IGNORED)


class PairsTask(InContextTask):
    """Pairs of one key and one value each, some of which may be noise.

    Raises ValueError for a vocabulary without a key or a value.
    """

    def __init__(
        self,
        name: str,
        vocab_size: int,
        noise_vocab_size: int,
        noise: float,
        multi_query: bool,
        learn: Learn,
        sizes: tuple[int | None, int, int],
    ) -> None:
        super().__init__(vocab_size, *sizes)
        left = vocab_size - noise_vocab_size - (not multi_query)
        if left < 2:
            raise ValueError(f"vocab_size {vocab_size} leaves {left} tokens for keys and values, which need 2")
        self.name, self.noise, self.noise_vocab_size = name, noise, noise_vocab_size
        self.multi_query, self.learn = multi_query, learn
        self.num_keys, self.num_values = left // 2, left - left // 2

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless two pairs fit, and the context is even if there is one query."""
        if context < 4 - self.multi_query:
            raise ArchlabError(
                f"{self.name}: two pairs need {4 - self.multi_query} inputs, not train.context {context}"
            )
        if not self.multi_query and context % 2:
            raise ArchlabError(f"{self.name}: train.context {context} is odd: one query needs whole pairs")

    def make_tokens(
        self, random: np.random.RandomState, count: int, context: int, split: str
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return tokens [N, T + 1], and whether each is an answer; the value of the last whole pair always is."""
        pairs = context // 2 + self.multi_query
        last = (context + 1) // 2 - 1 if self.multi_query else pairs - 1
        pairs_NPW, noisy_NP = self._make_pairs(random, count, pairs, last)
        # Noise gets negative keys that are all different, so that it never counts as repeated.
        keys_NP = np.where(noisy_NP, -1 - np.arange(pairs), pairs_NPW[..., 0])
        asked_NP = is_repeated(keys_NP[..., None]) & (self.multi_query | (np.arange(pairs) == last))
        tokens = pairs_NPW.reshape(count, -1)
        answers = np.stack((np.zeros_like(asked_NP), asked_NP), -1).reshape(count, -1)
        if not self.multi_query:
            tokens = np.insert(tokens, 2 * last, self.vocab_size - 1, 1)
            answers = np.insert(answers, 2 * last, False, 1)
        return tokens[:, : context + 1], answers[:, : context + 1]

    def _make_pairs(
        self, random: np.random.RandomState, count: int, pairs: int, last: int
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return pairs of tokens, and whether each is noise; the last whole one repeats the key of an earlier one."""
        rows, keys_NP = np.arange(count), random.randint(0, self.num_keys, (count, pairs), np.int64)
        noisy_NP, repeated_N = self._choose_noise(random, count, pairs, last)
        keys_NP[:, last] = keys_NP[rows, repeated_N]
        values_NP = random.randint(0, self.num_values, (count, self.num_keys), np.int64)[rows[:, None], keys_NP]
        pairs_NPW = np.stack((keys_NP, self.num_keys + values_NP), -1)
        noise_NPW = random.randint(0, max(self.noise_vocab_size, 1), pairs_NPW.shape, np.int64)
        return np.where(noisy_NP[..., None], self.num_keys + self.num_values + noise_NPW, pairs_NPW), noisy_NP

    def _choose_noise(
        self, random: np.random.RandomState, count: int, pairs: int, last: int
    ) -> tuple[NDArray[np.bool_], Tokens]:
        """Return whether each pair is noise, and for each sample a pair before the last that is not."""
        noisy_NP = random.random_sample((count, pairs)) < self.noise
        # One earlier pair is spared from noise, so that there is a key to repeat even where noise is 1.
        rows, spared_N = np.arange(count), random.randint(0, last, count, np.int64)
        noisy_NP[rows, spared_N] = noisy_NP[:, last] = False
        # A noisy pair's draw is below 0 and the largest draw wins: a uniform choice among the pairs without noise.
        draws_NP = random.random_sample((count, last)) - noisy_NP[:, :last]
        return noisy_NP, draws_NP.argmax(1)


def is_repeated(keys_NPW: Tokens) -> NDArray[np.bool_]:
    """Return whether each key occurred at an earlier position."""
    return first_occurrences(keys_NPW) < np.arange(keys_NPW.shape[1])


def first_occurrences(keys_NPW: Tokens) -> Tokens:
    """Return for each key, of one or more tokens, the first position of the same key."""
    equal = [keys_NP[:, :, None] == keys_NP[:, None, :] for keys_NP in np.moveaxis(keys_NPW, -1, 0)]
    return np.logical_and.reduce(equal).argmax(2)
