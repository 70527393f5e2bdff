"""Tasks whose samples are made on the spot, as many as one likes.

N samples, T time (context), B batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError
from archlab.components.task._samples import SampleTask, Visit
from archlab.data.sampling import random_state
from archlab.data.splits import SPLITS
from archlab.data.task import IGNORED
from archlab.ops.dtypes import at_least_float32

Tokens: TypeAlias = NDArray[np.int64]
BLOCK = 16  # samples that are made together
DRAWS = 200  # after which a split counts as empty
MIXERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64


class SyntheticTask(SampleTask):
    """Samples of words, made in blocks from the numbers of seed, split and block.

    Which split a sample belongs to is said by a hash of its inputs, so that none is ever in two: an eighth of what can
    be made is validation, an eighth test. Without `train_size` training never sees a sample twice (but for chance);
    with it, an epoch visits the blocks in an order of its own. Unless `per_sample`, targets are [B, T], and
    sample_accuracy is the share of samples that are right throughout.
    """

    vocab_size: int
    per_sample = False
    metrics_are_per_token = False
    metrics: Sequence[str] = ("loss", "accuracy", "sample_accuracy")

    def __init__(self, vocab_size: int, train_size: int | None, eval_size: int, data_seed: int) -> None:
        self.vocab_size = self.num_classes = vocab_size
        self.train_size, self.eval_size, self.data_seed = train_size, eval_size, data_seed
        self._kept: dict[tuple[str, int, int], tuple[Tokens, Tokens]] = {}

    @abstractmethod
    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs [N, T] and targets, [N, T] or [N], of so many samples."""

    def size(self, split: str) -> int:
        """Return the number of samples of a split; of an endless one, how many are measured."""
        return self.train_size or self.eval_size if split == "train" else self.eval_size

    def describe(self) -> dict[str, Any]:
        """Return how many samples there are."""
        sizes = super().describe()["samples"] | {"train": self.train_size or "endless"}
        return {"source": "made from the seed", "data_seed": self.data_seed, "samples": sizes}

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step: a function of the arguments and nothing else."""
        self._require(split, context)
        visits = step * batch_size + np.arange(batch_size)
        if split == "train" and self.train_size is None:
            return self._gathered(split, visits, context, seed)
        size = self.size(split)
        numbers = np.array([_order(size, seed, int(visit) // size)[visit % size] for visit in visits])
        return self._gathered(split, numbers, context, None)

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return inputs [B, T] and targets."""
        return self._gathered(split, np.array(numbers), context, None)

    def compute_metrics(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the sum of each metric over what was asked, and the number of terms; loss in nats."""
        found = super().compute_metrics(logits, targets)
        if "sample_accuracy" in self.metrics:
            asked = targets != IGNORED
            wrong_B = ((at_least_float32(logits).argmax(-1) != targets) & asked).any(-1)
            found["sample_accuracy"] = ((asked.any(-1) & ~wrong_B).sum(), asked.any(-1).sum())
        return found

    def _gathered(self, split: str, numbers: Tokens, context: int, seed: int | None) -> tuple[Tensor, Tensor]:
        blocks = {number: self._block(split, int(number), context, seed) for number in np.unique(numbers // BLOCK)}
        rows = [[part[number % BLOCK] for part in blocks[number // BLOCK]] for number in numbers]
        inputs, targets = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return inputs, targets

    def _block(self, split: str, number: int, context: int, seed: int | None) -> tuple[Tokens, Tokens]:
        """Return a block of samples; those that are measured are kept."""
        if (split, number, context) in self._kept:
            return self._kept[split, number, context]
        stream = 0 if seed is None else seed + 1
        random = random_state(self.data_seed, SPLITS.index(split), number, stream)
        found = self._drawn(random, context, split)
        if split != "train":
            self._kept[split, number, context] = found
        return found

    def _drawn(self, random: np.random.RandomState, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Draw until as many samples as a block holds belong to the split."""
        drawn: list[tuple[Tokens, Tokens]] = []
        count = 2 * BLOCK if split == "train" else 8 * BLOCK
        for _ in range(DRAWS):
            inputs, targets = self.make(random, count, context, split)
            mine = _splits(inputs) == SPLITS.index(split)
            drawn.append((inputs[mine], targets[mine]))
            if sum(len(part) for part, _ in drawn) >= BLOCK:
                joined, asked = (np.concatenate(part)[:BLOCK] for part in zip(*drawn, strict=True))
                return joined, asked
        raise ArchlabError(f"{type(self).__name__}: too few different samples for a {split} split of their own")


def _splits(inputs_NT: Tokens) -> NDArray[np.int64]:
    """Return the number of each sample's split; words 0 in front, which are padding, make no difference."""
    factors_T = random_state(0).randint(0, 2**63, (inputs_NT.shape[1],), dtype=np.uint64)[::-1] | np.uint64(1)
    hash_N = (inputs_NT.astype(np.uint64) * factors_T).sum(1)
    for factor in MIXERS:
        hash_N = (hash_N ^ (hash_N >> np.uint64(31))) * np.uint64(factor)
    return np.array([1, 2, 0, 0, 0, 0, 0, 0])[(hash_N >> np.uint64(61)).astype(np.int64)]


@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> Tokens:
    """Return the numbers below `size`, whose blocks are in the order of an epoch."""
    blocks = random_state(seed, epoch).permutation(-(-size // BLOCK))
    numbers = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
    return numbers[numbers < size]


def distinct(random: np.random.RandomState, rows: int, below: int, count: int) -> Tokens:
    """Return rows of `count` different numbers below `below`, all equally likely in every order."""
    numbers, at = np.tile(np.arange(below), (rows, 1)), np.arange(rows)
    steps = (random.random_sample((rows, count)) * (below - np.arange(count))).astype(np.int64)
    for place in range(count):
        other = place + steps[:, place]
        numbers[at, other], numbers[at, place] = numbers[at, place].copy(), numbers[at, other].copy()
    return numbers[:, :count]
