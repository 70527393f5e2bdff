"""Tasks that ask for what went with a key before, in the manner of MAD (arXiv:2403.17844).

N samples, T time (context), P pairs, W words.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archlab import ArchlabError
from archlab.components.task._synthetic import SyntheticTask, Tokens
from archlab.data.task import IGNORED

Learn: TypeAlias = Literal["every_word", "answers"]


class InContextTask(SyntheticTask):
    """Predict the next word, of which the values of keys seen before are asked for.

    With `multi_query` every such value is asked for; without, only the last pair's, which stands behind a word of its
    own. Training learns `every_word`, or the `answers` alone; evaluation always asks for the answers.
    """

    predicts_next = True
    multi_query: bool
    learn: Learn

    @abstractmethod
    def words(
        self, random: np.random.RandomState, count: int, context: int, split: str
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return words [N, T + 1], and which of them are answers."""

    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs and targets [N, T]."""
        words, answers = self.words(random, count, context, split)
        asked = answers[:, 1:] | (split == "train" and self.learn == "every_word")
        return words[:, :-1], np.where(asked, words[:, 1:], IGNORED)


class PairsTask(InContextTask):
    """Pairs of one key and one value each, of which some may be noise."""

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
            raise ValueError(f"vocab_size {vocab_size} leaves {left} words for keys and values, which need 2")
        self.name, self.noise, self.noise_vocab_size = name, noise, noise_vocab_size
        self.multi_query, self.learn = multi_query, learn
        self.num_keys, self.num_values = left // 2, left - left // 2

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless two pairs fit, in whole pairs where one is asked for."""
        if context < 4 - self.multi_query:
            raise ArchlabError(
                f"{self.name}: two pairs need {4 - self.multi_query} inputs, not train.context {context}"
            )
        if not self.multi_query and context % 2:
            raise ArchlabError(f"{self.name}: train.context {context} is odd: one query needs whole pairs")

    def words(
        self, random: np.random.RandomState, count: int, context: int, split: str
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return words [N, T + 1], and which of them are answers; the last whole pair always is."""
        pairs = context // 2 + self.multi_query
        last = (context + 1) // 2 - 1 if self.multi_query else pairs - 1
        words_NPW, noisy_NP = self._pairs(random, count, pairs, last)
        names_NP = np.where(noisy_NP, -1 - np.arange(pairs), words_NPW[..., 0])
        asked_NP = repeated(names_NP[..., None]) & (self.multi_query | (np.arange(pairs) == last))
        words = words_NPW.reshape(count, -1)
        answers = np.stack((np.zeros_like(asked_NP), asked_NP), -1).reshape(count, -1)
        if not self.multi_query:
            words, answers = np.insert(words, 2 * last, self.vocab_size - 1, 1), np.insert(answers, 2 * last, False, 1)
        return words[:, : context + 1], answers[:, : context + 1]

    def _pairs(
        self, random: np.random.RandomState, count: int, pairs: int, last: int
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return pairs of words, and which are noise; the last whole one has the key of one before."""
        rows, keys_NP = np.arange(count), random.randint(0, self.num_keys, (count, pairs), np.int64)
        noisy_NP, shown_N = self._noisy(random, count, pairs, last)
        keys_NP[:, last] = keys_NP[rows, shown_N]
        values_NP = random.randint(0, self.num_values, (count, self.num_keys), np.int64)[rows[:, None], keys_NP]
        words_NPW = np.stack((keys_NP, self.num_keys + values_NP), -1)
        noise_NPW = random.randint(0, max(self.noise_vocab_size, 1), words_NPW.shape, np.int64)
        return np.where(noisy_NP[..., None], self.num_keys + self.num_values + noise_NPW, words_NPW), noisy_NP

    def _noisy(
        self, random: np.random.RandomState, count: int, pairs: int, last: int
    ) -> tuple[NDArray[np.bool_], Tokens]:
        """Return which pairs are noise, and for each sample one before the last that is none."""
        noisy_NP = random.random_sample((count, pairs)) < self.noise
        rows, spared_N = np.arange(count), random.randint(0, last, count, np.int64)
        noisy_NP[rows, spared_N] = noisy_NP[:, last] = False
        chance_NP = random.random_sample((count, last)) - noisy_NP[:, :last]
        return noisy_NP, chance_NP.argmax(1)


def repeated(names_NPW: Tokens) -> NDArray[np.bool_]:
    """Tell which places hold a name that stands at an earlier place too."""
    return first_places(names_NPW) < np.arange(names_NPW.shape[1])


def first_places(names_NPW: Tokens) -> Tokens:
    """Return for each place the first that holds the same name, of one or more words."""
    same = [names_NP[:, :, None] == names_NP[:, None, :] for names_NP in np.moveaxis(names_NPW, -1, 0)]
    return np.logical_and.reduce(same).argmax(2)
