"""The contract of a task: inputs, targets, and the metrics of a model's answers.

Letters: B batch, T time (context), V outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.config.registry import component_of
from archlab.data.documents import Document
from archlab.data.prepared import PreparedCorpus
from archlab.data.tokenizers.model_tokens import ModelTokens
from archlab.errors import ArchlabError
from archlab.ops.dtypes import at_least_float32
from archlab.ops.linear_cross_entropy import IGNORED


class Task(Protocol):
    """Everything that archlab asks of a task; derive from it to inherit the defaults.

    A model reads inputs and returns logits of `num_outputs` answers, at every step or once per sample.

    Attributes:
        vocab_size: Number of tokens of inputs [B, T] int64; None if inputs are real values [B, ...].
        per_sample: Whether targets are [B], one per sample, rather than [B, T] with IGNORED where none is asked for.
        predicts_next: Whether targets are later inputs, so that a model must be causal.
        has_documents: Whether samples are parts of texts whose documents can be distinguished.
        metrics_are_per_token: Whether the metrics of a part of the steps can be summed with those of the others.
        tokens: The identity of the tokens, shared by tasks that have the same; a task's own by default.
        benchmark: The suite of measurements of models that were trained on the task, if there is one.
        difficulties: For each knob that makes samples harder and leaves the tokens as they are, the values at which
            that suite measures; `context` is the number of inputs.
        metrics: Names of the metrics; `bpb` is computed from the loss and `bytes_per_token`.
    """

    # The framework reads predicts_next and metrics from the class, before a task is constructed.
    vocab_size: int | None = None
    per_sample: bool = False
    predicts_next: bool = False
    has_documents: bool = False
    metrics_are_per_token: bool = True
    tokens: str = ""
    benchmark: ClassVar[str] = ""
    difficulties: ClassVar[Mapping[str, Sequence[float]]] = MappingProxyType({})
    metrics: Sequence[str] = ("loss", "accuracy")

    @property
    def num_outputs(self) -> int:
        """The number of possible answers; by default the vocabulary's size."""
        assert self.vocab_size is not None
        return self.vocab_size

    def check(self, context: int) -> None:
        """Raise ArchlabError unless every split can be read and has samples of this context, in inputs."""

    def require_sources(self) -> None:
        """Raise ArchlabError if data that the task names are not there, before they are read or a model is built."""
        return

    def prepare(self) -> Sequence[PreparedCorpus]:
        """Make the tokens of the data, which are made once; return where they are, none if nothing is to be made."""
        return ()

    @property
    def prepared_dir(self) -> Path | None:
        """The directory of the prepared corpus that the task names, there or not; None for a task that names none."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return the data's provenance as plain data: source, sizes, checksums."""
        return {}

    @abstractmethod
    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step: a function of the arguments alone, so that a run can be resumed."""

    def rows(
        self, split: str, start: int, stop: int, *, batch_size: int, context: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of the samples from `start` to `stop`, counted from the first of a run.

        These are rows of `batch`, whatever divides them among processes: update u of a run reads the samples from
        `u * n` to `(u + 1) * n`, n being `batch_size * accumulate`, and a process any part of them. By default the
        batches that they are in are made whole; a task that can make samples one by one makes only those.
        """
        first, last = start // batch_size, -(-stop // batch_size)
        batches = [self.batch(split, step, batch_size, context, seed) for step in range(first, last)]
        inputs, targets = (torch.cat(each) for each in zip(*batches, strict=True))
        own = slice(start - first * batch_size, stop - first * batch_size)
        return inputs[own], targets[own]

    @abstractmethod
    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets that cover a split once, in order, or its first `max_tokens` inputs."""

    def documents(
        self, split: str, start: int, stop: int, *, batch_size: int, context: int, seed: int
    ) -> list[Document]:
        """Return inputs and targets of each document, or part of one, that the same samples of `rows` hold."""
        raise ArchlabError("this task has no documents")

    def eval_documents(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[list[Document]]:
        """Yield inputs and targets of each document, or part of one, that the batches of `eval_batches` hold."""
        raise ArchlabError("this task has no documents")

    def num_eval_targets(self, split: str, context: int, max_tokens: int | None = None) -> int | None:
        """Return the number of targets of `eval_batches`, for a progress bar; None if it is unknown before reading."""
        return None

    def shares(self) -> Mapping[str, float]:
        """Return the share of a run's samples that each of several sources has, by its name, without reading one."""
        return {}

    def eval_parts(self) -> Mapping[str, tuple[float, Task]]:
        """Return share and task of each source that is evaluated by itself; none for a task that is evaluated whole."""
        return {}

    def example_inputs(self, batch_size: int, context: int, device: str | torch.device) -> Tensor:
        """Return zeros of the inputs' shape and type, for counting costs."""
        dtype = torch.float32 if self.vocab_size is None else torch.int64
        return torch.zeros(batch_size, context, dtype=dtype, device=device)

    def compute_metrics(self, logits: Tensor, targets: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return for each metric the sum over the targets that are asked for and their number; the loss is in nats."""
        logits_NV, targets_N = at_least_float32(logits).flatten(0, -2), targets.flatten()
        asked_N = targets_N != IGNORED
        loss = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")
        metrics = {"loss": (loss, asked_N.sum())}
        if "accuracy" in self.metrics:
            metrics["accuracy"] = (((logits_NV.argmax(-1) == targets_N) & asked_N).sum(), asked_N.sum())
        return metrics

    def text(self, split: str) -> bytes:
        """Return a split's text, for comparison with compressors; empty if the task has none."""
        return b""

    def bytes_per_token(self, split: str) -> float:
        """Return the mean number of bytes of a split per target; asked for only if `bpb` is a metric."""
        raise ArchlabError("this task has no text to measure bits per byte of")

    def bytes_per_evaluated_token(self, split: str, max_tokens: int | None) -> float:
        """Return the mean number of bytes per target of the first `max_tokens` targets, which may not be the mean."""
        return self.bytes_per_token(split)

    def has_bits_per_byte(self, split: str) -> bool:
        """Return whether bits per byte of a split are right: not if its text cannot be had back from its tokens."""
        return True

    def model_tokens(self) -> ModelTokens | None:
        """Return the vocabulary of the inputs, which is stored with a trained model; None for real values.

        A model is evaluated only on tasks whose tokens mean the same.
        """
        if self.vocab_size is None:
            return None
        component = component_of(type(self))
        return ModelTokens(self.tokens or f"tokens of the task {component.name if component else type(self).__name__}")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; raise ArchlabError if the task has no text."""
        raise ArchlabError("this task has no text to continue; its inputs are numbers or synthetic tokens")

    def encode_continuation(self, text: str) -> list[int]:
        """Return the tokens of a text that continues after others, by default those of the text alone."""
        return self.encode(text)

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text that each token adds, one piece a token; raise ArchlabError if the task has no text."""
        raise ArchlabError("this task has no text to decode; its inputs are numbers or synthetic tokens")

    def decode_continuation(self, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text that each token adds to that of a prompt; by default as if there were none before."""
        return self.decode_stream(tokens)
