"""N samples, T time (context), P pairs, W words of a key or a value, L words of a pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from archlab import ArchlabError, Count, register
from archlab.components.task._synthetic import Tokens, distinct

from ._in_context import InContextTask, Learn, first_places


@register("task", "fuzzy_recall")
class FuzzyRecall(InContextTask):
    """In-context recall where keys and values are of several words, MAD's fuzzy in-context recall (arXiv:2403.17844).

    A key is 1 to `key_tokens` different words of the first half, in training, and `key_tokens` in evaluation; a value is
    1 to `value_tokens` of the second. A sample ends with a pair that it had before, behind words of padding,
    vocab_size - 1. Every value of a repeated key is asked for, or, without `multi_query`, the last, behind word
    vocab_size - 1, and padding is the word below. Training learns `every_word` that comes next, or the `answers` alone.
    Raises ValueError where the halves have fewer words than a key or a value.
    """

    def __init__(
        self,
        *,
        vocab_size: Count = 16,
        key_tokens: Count = 3,
        value_tokens: Count = 3,
        multi_query: bool = True,
        learn: Learn = "every_word",
        train_size: Count | None = 12800,
        eval_size: Count = 1280,
        data_seed: Count = 1,
    ) -> None:
        super().__init__(vocab_size, train_size, eval_size, data_seed)
        self.padding = vocab_size - 1 - (not multi_query)
        half = self.padding // 2
        if half < key_tokens or self.padding - half < value_tokens:
            have = f"{max(half, 0)} and {max(self.padding - half, 0)} words"
            raise ValueError(f"vocab_size {vocab_size} has {have} for key_tokens {key_tokens}, value_tokens {value_tokens}")
        self.half, self.key_tokens, self.value_tokens = half, key_tokens, value_tokens
        self.multi_query, self.learn = multi_query, learn

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless two of the longest pairs fit."""
        need = 2 * (self.key_tokens + self.value_tokens) - self.multi_query
        if context < need:
            raise ArchlabError(f"fuzzy_recall: two pairs need {need} inputs, more than train.context {context}")

    def words(
        self, random: np.random.RandomState, count: int, context: int, split: str
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return words [N, T + 1], and which of them are answers."""
        pairs, longest = context // 2 + 1, self.key_tokens + self.value_tokens
        least = 1 if split == "train" else self.key_tokens
        keys_NPW = _names(random, (count, pairs), least, self.key_tokens, 0, self.half)
        values_NPW = _names(random, (count, pairs), 1, self.value_tokens, self.half, self.padding - self.half)
        first_NP = first_places(keys_NPW)
        values_NPW = np.take_along_axis(values_NPW, first_NP[..., None], 1)
        pair_NPL = np.concatenate((keys_NPW, values_NPW), -1)
        room = context + 1 - longest - (not self.multi_query)
        num_N = ((pair_NPL >= 0).sum(-1).cumsum(1) <= room).sum(1)
        last_N = (random.random_sample(count) * num_N).astype(np.int64)
        return self._laid_out(pair_NPL, first_NP < np.arange(pairs), num_N, last_N, context + 1)

    def _laid_out(
        self, pair_NPL: Tokens, seen_NP: NDArray[np.bool_], num_N: Tokens, last_N: Tokens, width: int
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return the first pairs of each sample and one of them again, at the end of rows of padding."""
        rows, places = np.arange(len(num_N)), np.arange(pair_NPL.shape[1])
        end_NPL = pair_NPL[rows, last_N][:, None]
        pair_NPL = np.where((places < num_N[:, None])[..., None], pair_NPL, -1)
        order = np.full((len(num_N), 1, 1), -1 if self.multi_query else self.vocab_size - 1)
        words = np.concatenate((pair_NPL.reshape(len(num_N), -1), order[:, 0], end_NPL[:, 0]), 1)
        is_value_L = np.arange(pair_NPL.shape[2]) >= self.key_tokens
        asked_NPL = (seen_NP & self.multi_query)[..., None] & is_value_L
        answers = np.concatenate(
            (asked_NPL.reshape(len(num_N), -1), order[:, 0] < -1, np.tile(is_value_L, (len(num_N), 1))), 1
        )
        return _pushed_right(words, answers, width, self.padding)


def _names(
    random: np.random.RandomState, shape: tuple[int, int], least: int, most: int, first: int, num_tokens: int
) -> Tokens:
    """Return names of `least` to `most` different words each, -1 where a name is shorter."""
    words = distinct(random, shape[0] * shape[1], num_tokens, most).reshape(*shape, most) + first
    sizes = random.randint(least, most + 1, shape, np.int64)
    return np.where(np.arange(most) < sizes[..., None], words, -1)


def _pushed_right(
    words: Tokens, answers: NDArray[np.bool_], width: int, padding: int
) -> tuple[Tokens, NDArray[np.bool_]]:
    """Return rows of one width, whose words that are not -1 stand at the end."""
    there = words >= 0
    rows, columns = np.nonzero(there)
    to = (width - there.sum(1)[:, None] + there.cumsum(1) - 1)[rows, columns]
    moved, asked = np.full((len(words), width), padding), np.zeros((len(words), width), bool)
    moved[rows, to], asked[rows, to] = words[rows, columns], answers[rows, columns]
    return moved, asked
