"""N samples, T time (context), P pairs, W tokens of a key or a value, L tokens of a pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from archlab import ArchlabError, Count, register
from archlab.components.task._synthetic import Tokens
from archlab.data.sampling import sample_without_replacement

from ._in_context import InContextTask, Learn, first_occurrences


@register("task", "fuzzy_recall")
class FuzzyRecall(InContextTask):
    """Recall values of several tokens by keys of several tokens, MAD's fuzzy in-context recall (arXiv:2403.17844).

    Keys are different tokens of the first half of the vocabulary, values of the second. A sample ends with a repeated
    pair and is padded on the left with token vocab_size - 1; without `multi_query` that is the query token, before the
    repeated pair, and padding is vocab_size - 2. Raises ValueError if a half has fewer tokens than a key or a value.

    Args:
        vocab_size: Number of tokens, padding and the query token included.
        key_tokens: Number of tokens of a key in evaluation; in training it is drawn from 1 to `key_tokens`.
        value_tokens: Maximum number of tokens of a value; each has 1 to `value_tokens`.
        multi_query: Whether the value of every repeated key is a target; otherwise only that of the last pair.
        learn: Targets of training: `every_word` for every next token, or `answers` for the values alone.
        train_size: Number of training samples; null draws new samples at every step.
        eval_size: Number of validation samples, and of test samples.
        data_seed: Seed of the samples, independent of the run's seed.
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
            halves = f"{max(half, 0)} and {max(self.padding - half, 0)} tokens"
            raise ValueError(
                f"vocab_size {vocab_size} has {halves} for key_tokens {key_tokens}, value_tokens {value_tokens}"
            )
        self.half, self.key_tokens, self.value_tokens = half, key_tokens, value_tokens
        self.multi_query, self.learn = multi_query, learn

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless two of the longest pairs fit."""
        need = 2 * (self.key_tokens + self.value_tokens) - self.multi_query
        if context < need:
            raise ArchlabError(f"fuzzy_recall: two pairs need {need} inputs, more than train.context {context}")

    def make_tokens(
        self, random: np.random.RandomState, count: int, context: int, split: str
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return tokens [N, T + 1], and whether each is an answer."""
        pairs, longest = context // 2 + 1, self.key_tokens + self.value_tokens
        min_tokens = 1 if split == "train" else self.key_tokens
        keys_NPW = _sample_keys(random, (count, pairs), min_tokens, self.key_tokens, 0, self.half)
        values_NPW = _sample_keys(random, (count, pairs), 1, self.value_tokens, self.half, self.padding - self.half)
        # A repeated key gets the value of its first occurrence.
        first_NP = first_occurrences(keys_NPW)
        values_NPW = np.take_along_axis(values_NPW, first_NP[..., None], 1)
        pair_NPL = np.concatenate((keys_NPW, values_NPW), -1)
        # Space is left for the longest pair at the end; as many whole pairs as fit before it are kept.
        room = context + 1 - longest - (not self.multi_query)
        num_N = ((pair_NPL >= 0).sum(-1).cumsum(1) <= room).sum(1)
        repeated_N = (random.random_sample(count) * num_N).astype(np.int64)
        return self._lay_out(pair_NPL, first_NP < np.arange(pairs), num_N, repeated_N, context + 1)

    def _lay_out(
        self, pair_NPL: Tokens, seen_NP: NDArray[np.bool_], num_N: Tokens, repeated_N: Tokens, width: int
    ) -> tuple[Tokens, NDArray[np.bool_]]:
        """Return the first `num_N` pairs of each sample, then the repeated one, padded on the left to one width."""
        rows, places = np.arange(len(num_N)), np.arange(pair_NPL.shape[1])
        end_NPL = pair_NPL[rows, repeated_N][:, None]
        pair_NPL = np.where((places < num_N[:, None])[..., None], pair_NPL, -1)
        query = np.full((len(num_N), 1), -1 if self.multi_query else self.vocab_size - 1)
        tokens = np.concatenate((pair_NPL.reshape(len(num_N), -1), query, end_NPL[:, 0]), 1)
        is_value_L = np.arange(pair_NPL.shape[2]) >= self.key_tokens
        asked_NPL = (seen_NP & self.multi_query)[..., None] & is_value_L
        answers = np.concatenate(
            (asked_NPL.reshape(len(num_N), -1), np.zeros_like(query, bool), np.tile(is_value_L, (len(num_N), 1))), 1
        )
        return _push_right(tokens, answers, width, self.padding)


def _sample_keys(
    random: np.random.RandomState, shape: tuple[int, int], least: int, most: int, first: int, num_tokens: int
) -> Tokens:
    """Return keys or values of `least` to `most` different tokens from `first` on, filled up with -1."""
    tokens = sample_without_replacement(random, shape[0] * shape[1], num_tokens, most).reshape(*shape, most) + first
    sizes = random.randint(least, most + 1, shape, np.int64)
    return np.where(np.arange(most) < sizes[..., None], tokens, -1)


def _push_right(
    tokens: Tokens, answers: NDArray[np.bool_], width: int, padding: int
) -> tuple[Tokens, NDArray[np.bool_]]:
    """Return rows of one width: drop the tokens that are -1 and pad on the left."""
    is_token = tokens >= 0
    rows, columns = np.nonzero(is_token)
    to = (width - is_token.sum(1)[:, None] + is_token.cumsum(1) - 1)[rows, columns]
    out, asked = np.full((len(tokens), width), padding), np.zeros((len(tokens), width), bool)
    out[rows, to], asked[rows, to] = tokens[rows, columns], answers[rows, columns]
    return out, asked
