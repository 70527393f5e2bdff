"""Synthetic tasks: samples of tokens, generated on demand.

N samples, T time (context), B batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError
from archlab.components.task._samples import SampleTask, Visit
from archlab.data.sampling import block_order, random_state
from archlab.data.splits import SPLITS, split_by_tokens
from archlab.data.task import IGNORED
from archlab.ops.dtypes import at_least_float32

Tokens: TypeAlias = NDArray[np.int64]
BLOCK = 16  # samples that are generated together: numpy's overhead is per block
MAX_DRAWS = 200  # after which a split counts as empty


class SyntheticTask(SampleTask):
    """Samples of tokens, generated in blocks from the data seed, the split and the block's index.

    A hash of its inputs assigns each sample to a split, so that no sample is in two: 1/8 of all possible samples are
    validation, 1/8 test. Without `train_size` every training step draws new samples; with it, an epoch visits the
    blocks in an order that depends on the epoch. Unless `per_sample`, targets are [B, T], and sample_accuracy is the
    fraction of samples whose every target is predicted.
    """

    vocab_size: int
    per_sample = False
    metrics_are_per_token = False  # sample_accuracy needs all targets of a sample at once
    metrics: Sequence[str] = ("loss", "accuracy", "sample_accuracy")

    def __init__(self, vocab_size: int, train_size: int | None, eval_size: int, data_seed: int) -> None:
        self.vocab_size = self.num_classes = vocab_size
        self.train_size, self.eval_size, self.data_seed = train_size, eval_size, data_seed
        self._eval_blocks: dict[tuple[str, int, int], tuple[Tokens, Tokens]] = {}

    @abstractmethod
    def make(self, random: np.random.RandomState, count: int, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Return inputs [N, T] and targets, [N, T] or [N], of `count` samples."""

    def size(self, split: str) -> int:
        """Return the number of samples of a split; for an endless train split, that of the samples evaluated."""
        return self.train_size or self.eval_size if split == "train" else self.eval_size

    def num_eval_targets(self, split: str, context: int, max_tokens: int | None = None) -> int:
        """Return the number of targets of `eval_batches`: a sample has as many as its tokens happen to ask for."""
        if self.per_sample:
            return super().num_eval_targets(split, context, max_tokens)
        batches = self.eval_batches(split, BLOCK, context, max_tokens)
        return sum(int((targets != IGNORED).sum()) for _, targets in batches)

    def describe(self) -> dict[str, Any]:
        """Return the number of samples of each split."""
        sizes = super().describe()["samples"] | {"train": self.train_size or "endless"}
        return {"source": "made from the seed", "data_seed": self.data_seed, "samples": sizes}

    def rows(
        self, split: str, start: int, stop: int, *, batch_size: int, context: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of samples of a run; see `Task.rows`."""
        self._require(split, context)
        visits = np.arange(start, stop)
        if split == "train" and self.train_size is None:
            return self._gather(split, visits, context, seed)
        size = self.size(split)
        indices = np.array([block_order(size, BLOCK, seed, int(visit) // size)[visit % size] for visit in visits])
        return self._gather(split, indices, context, None)

    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return inputs [B, T] and targets."""
        return self._gather(split, np.array(indices), context, None)

    def compute_metrics(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return for each metric the sum over the targets that are asked for and their number; the loss is in nats."""
        metrics = super().compute_metrics(logits, targets)
        if "sample_accuracy" in self.metrics:
            asked = targets != IGNORED
            wrong_B = ((at_least_float32(logits).argmax(-1) != targets) & asked).any(-1)
            metrics["sample_accuracy"] = ((asked.any(-1) & ~wrong_B).sum(), asked.any(-1).sum())
        return metrics

    def _gather(self, split: str, indices: Tokens, context: int, seed: int | None) -> tuple[Tensor, Tensor]:
        blocks = {block: self._block(split, int(block), context, seed) for block in np.unique(indices // BLOCK)}
        rows = [[part[index % BLOCK] for part in blocks[index // BLOCK]] for index in indices]
        inputs, targets = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return inputs, targets

    def _block(self, split: str, block: int, context: int, seed: int | None) -> tuple[Tokens, Tokens]:
        """Return a block of samples; those of evaluation, which is repeated, are kept in memory."""
        if (split, block, context) in self._eval_blocks:
            return self._eval_blocks[split, block, context]
        # Endless training draws from streams of the run's own seed, finite splits all from stream 0.
        stream = 0 if seed is None else seed + 1
        random = random_state(self.data_seed, SPLITS.index(split), block, stream)
        samples = self._draw_block(random, context, split)
        if split != "train":
            self._eval_blocks[split, block, context] = samples
        return samples

    def _draw_block(self, random: np.random.RandomState, context: int, split: str) -> tuple[Tokens, Tokens]:
        """Draw samples until those of the split fill a block (rejection sampling)."""
        drawn: list[tuple[Tokens, Tokens]] = []
        # 6/8 of the samples are train, 1/8 each validation and test: a draw holds about a block of either.
        count = 2 * BLOCK if split == "train" else 8 * BLOCK
        for _ in range(MAX_DRAWS):
            inputs, targets = self.make(random, count, context, split)
            in_split = split_by_tokens(inputs) == SPLITS.index(split)
            drawn.append((inputs[in_split], targets[in_split]))
            if sum(len(part) for part, _ in drawn) >= BLOCK:
                inputs, targets = (np.concatenate(part)[:BLOCK] for part in zip(*drawn, strict=True))
                return inputs, targets
        raise ArchlabError(f"{type(self).__name__}: too few different samples for a {split} split of their own")
