"""Classification of samples, finite in number, such as images or waveforms.

B batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from archlab import ArchlabError, did_you_mean
from archlab.data.padding import pad_batch
from archlab.data.sampling import epoch_order
from archlab.data.splits import SPLITS
from archlab.data.task import IGNORED, Task

Visit: TypeAlias = tuple[int, int]  # the run's seed, and how many samples were visited before


class SampleTask(Task):
    """Predict the class of each sample; an epoch visits every sample once, in an order that depends on the epoch."""

    per_sample = True
    num_classes: int

    @property
    def num_outputs(self) -> int:
        """The number of classes."""
        return self.num_classes

    @abstractmethod
    def size(self, split: str) -> int:
        """Return the number of samples of a split."""

    @abstractmethod
    def samples(
        self, split: str, indices: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return inputs [B, ...] and classes [B]; `visits`, in training, are the seeds of augmentation."""

    def describe(self) -> dict[str, Any]:
        """Return the number of samples of each split."""
        return {"samples": {split: self.size(split) for split in SPLITS}}

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless samples can have `context` inputs."""

    def check(self, context: int) -> None:
        """Raise ArchlabError unless samples have this context and the first one of every split can be read."""
        self.require_context(context)
        for split in SPLITS:
            self.samples(split, [0], context)

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and classes of a step: a function of the arguments alone."""
        return self.rows(
            split, step * batch_size, (step + 1) * batch_size, batch_size=batch_size, context=context, seed=seed
        )

    def rows(
        self, split: str, start: int, stop: int, *, batch_size: int, context: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and classes of samples of a run; see `Task.rows`."""
        self._require(split, context)
        size = self.size(split)
        visits = [(seed, visit) for visit in range(start, stop)]
        indices = [int(epoch_order(size, seed, visit // size)[visit % size]) for _, visit in visits]
        return self.samples(split, indices, context, visits)

    def num_eval_targets(self, split: str, context: int, max_tokens: int | None = None) -> int:
        """Return the number of targets of `eval_batches`, one for each sample."""
        return self._num_eval_samples(split, context, max_tokens)

    def _num_eval_samples(self, split: str, context: int, max_tokens: int | None) -> int:
        size = self.size(split)
        return size if max_tokens is None else min(size, math.ceil(max_tokens / context))

    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and classes that cover a split once, or the samples that hold its first `max_tokens` inputs.

        All batches have one shape; classes after the last sample are -100.
        """
        self._require(split, context)
        size, count = self.size(split), self._num_eval_samples(split, context, max_tokens)
        # Files are listed class by class: a fixed shuffle makes the first samples a sample of all classes.
        rows, shuffled = min(batch_size, count), epoch_order(size, 0, 0)
        for start in range(0, count, rows):
            inputs, classes_B = self.samples(split, shuffled[start : min(start + rows, count)].tolist(), context)
            yield pad_batch(inputs, rows, 0), pad_batch(classes_B, rows, IGNORED)

    def _require(self, split: str, context: int) -> None:
        if split not in SPLITS:
            raise ArchlabError(f"no split {split!r}{did_you_mean(split, SPLITS)}")
        self.require_context(context)
