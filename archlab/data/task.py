"""What a task is: inputs, targets, and what is measured on a model's answers.

Letters: B batch, T time (context), V outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.errors import ArchlabError
from archlab.ops.dtypes import at_least_float32
from archlab.ops.linear_cross_entropy import IGNORED


class Task:
    """Something to learn: a model reads `inputs` and scores `num_outputs` answers, at every step or once a sample.

    Inputs are words, [B, T] int64 below `vocab_size`, or numbers [B, ...] where vocab_size is None. Targets are
    [B, T] int64, IGNORED where nothing is asked, or [B] where `per_sample`. `context` is how many inputs a sample
    holds: words, pixels, or samples of a wave. `predicts_next` says that the answers stand in later inputs, so that a
    model must not look ahead, `metrics_are_per_token` that metrics of some steps can be added to those of others.
    `metrics` are the names of the metrics; `bpb` is computed from `bytes_per_token`.
    """

    vocab_size: int | None = None
    per_sample = False
    predicts_next = False
    metrics_are_per_token = True
    metrics: Sequence[str] = ("loss", "accuracy")

    @property
    def num_outputs(self) -> int:
        """How many answers there are to choose from: the words, unless said otherwise."""
        assert self.vocab_size is not None
        return self.vocab_size

    def check(self, context: int) -> None:
        """Raise ArchlabError unless every split can be read and gives samples of this context."""

    def describe(self) -> dict[str, Any]:
        """Return where the data came from as data: source, sizes, checksums."""
        return {}

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step: a function of the arguments and nothing else."""
        raise NotImplementedError

    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets that cover a split once, in order, or its first `max_tokens` inputs."""
        raise NotImplementedError

    def example_inputs(self, batch_size: int, context: int, device: str | torch.device) -> Tensor:
        """Return inputs of the right shape and type with nothing in them, to count costs by."""
        dtype = torch.float32 if self.vocab_size is None else torch.int64
        return torch.zeros(batch_size, context, dtype=dtype, device=device)

    def compute_metrics(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the sum of each metric over what was asked, and the number of terms; loss in nats."""
        scores, wanted = at_least_float32(logits).flatten(0, -2), targets.flatten()
        asked = wanted != IGNORED
        summed = F.cross_entropy(scores, wanted, ignore_index=IGNORED, reduction="sum")
        found = {"loss": (summed, asked.sum())}
        if "accuracy" in self.metrics:
            found["accuracy"] = (((scores.argmax(-1) == wanted) & asked).sum(), asked.sum())
        return found

    def bytes_per_token(self, split: str) -> float:
        """Return how many bytes of a split one target stands for, where bits per byte are measured."""
        raise NotImplementedError

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text that each token adds; raise ArchlabError where the task has none."""
        raise ArchlabError("this task has no text to decode; it was learned from numbers or made-up tokens")

    def encode(self, text: str) -> list[int]:
        """Return the words of a text; raise ArchlabError where the task has none."""
        raise ArchlabError("this task has no text to go on with; it was learned from numbers or made-up words")
