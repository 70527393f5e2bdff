"""Tasks that ask once about each of a known number of samples, such as images or waves.

B batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from archlab import ArchlabError, did_you_mean
from archlab.data.sampling import order
from archlab.data.splits import SPLITS
from archlab.data.task import IGNORED, Task

Visit: TypeAlias = tuple[int, int]


class SampleTask(Task):
    """Name the class of each sample; every sample is visited once an epoch, in an order of that epoch's own."""

    per_sample = True
    num_classes: int

    @property
    def num_outputs(self) -> int:
        """The number of classes."""
        return self.num_classes

    def size(self, split: str) -> int:
        """Return the number of samples of a split."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return how many samples each split has."""
        return {"samples": {split: self.size(split) for split in SPLITS}}

    def require_context(self, context: int) -> None:
        """Raise ArchlabError unless samples can have so many inputs."""

    def samples(
        self, split: str, numbers: Sequence[int], context: int, visits: Sequence[Visit] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return inputs [B, ...] and classes [B]; `visits`, seeds and numbers, may vary what is learned from."""
        raise NotImplementedError

    def check(self, context: int) -> None:
        """Raise ArchlabError unless samples have this context, and every split's first one can be read."""
        self.require_context(context)
        for split in SPLITS:
            self.samples(split, [0], context)

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and classes of a step: a function of the arguments and nothing else."""
        self._require(split, context)
        size, first = self.size(split), step * batch_size
        visits = [(seed, visit) for visit in range(first, first + batch_size)]
        numbers = [int(order(size, seed, visit // size)[visit % size]) for _, visit in visits]
        return self.samples(split, numbers, context, visits)

    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and classes that cover a split once, or as many samples as hold its first `max_tokens` inputs.

        The order is one for all: classes are mixed in it. All batches have one shape; a class is -100 where the
        samples have ended.
        """
        self._require(split, context)
        size = self.size(split)
        count = size if max_tokens is None else min(size, math.ceil(max_tokens / context))
        rows, shuffled = min(batch_size, count), order(size, 0, 0)
        for start in range(0, count, rows):
            inputs, classes_B = self.samples(split, shuffled[start : min(start + rows, count)].tolist(), context)
            yield _filled(inputs, rows, 0), _filled(classes_B, rows, IGNORED)

    def _require(self, split: str, context: int) -> None:
        if split not in SPLITS:
            raise ArchlabError(f"no split {split!r}{did_you_mean(split, SPLITS)}")
        self.require_context(context)


def _filled(values: Tensor, rows: int, filler: int) -> Tensor:
    """Append samples that hold nothing but a filler."""
    missing = values.new_full((rows - len(values), *values.shape[1:]), filler)
    return torch.cat((values, missing)) if len(missing) else values
