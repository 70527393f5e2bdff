"""Evaluation of a model: its metrics on a split of a task.

B batch, T time, V outputs.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypedDict

import torch
from torch import Tensor, nn

from archlab.config.train_config import TrainConfig
from archlab.data.documents import group_by_length
from archlab.data.task import Task
from archlab.errors import ArchlabError, did_you_mean
from archlab.modeling.build import device_of, eval_mode
from archlab.modeling.loss import iter_logits
from archlab.ops.dtypes import without_autocast
from archlab.parallel.ranks import Ranks
from archlab.parallel.shard import whole_ends

# Takes the number of targets evaluated so far, and the total, None if the task does not know it.
EvalProgress: TypeAlias = Callable[[int, int | None], None]
_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class EvalResult:
    """Metrics of a model on a split: loss in nats per target, bpb in bits per byte; and the speed of evaluation."""

    split: str
    metrics: dict[str, float]
    tokens: int
    tokens_per_s: float

    def to_dict(self) -> dict[str, float]:
        """Return metrics, tokens and speed as one mapping, the form of summary.json and `archlab eval --json`."""
        return {**self.metrics, "tokens": self.tokens, "tokens_per_s": self.tokens_per_s}


class EvalOptions(TypedDict):
    """Options of `evaluate` that an experiment's `train:` section sets."""

    batch_size: int
    context: int
    precision: str
    documents: str


def eval_options(train: TrainConfig) -> EvalOptions:
    """Return the options of the evaluations during training."""
    return EvalOptions(
        batch_size=train.batch_size, context=train.context, precision=train.precision, documents=train.documents
    )


def evaluate(
    model: nn.Module,
    task: Task,
    split: str,
    *,
    batch_size: int,
    context: int,
    max_tokens: int | None = None,
    precision: str = "float32",
    documents: str = "joined",
    progress: EvalProgress | None = None,
    ranks: Ranks | None = None,
) -> EvalResult:
    """Evaluate a model on a split, starting each sample from the initial state; several `ranks` divide the batches.

    With `documents="separate"` each document in a sample starts from it, too.
    `max_tokens` limits the number of inputs read; `progress` is called after each batch. Raises ArchlabError if the
    split has no target.
    """
    if precision not in _AUTOCAST:
        raise ArchlabError(f"precision: no precision {precision!r}{did_you_mean(precision, _AUTOCAST)}")
    # A task need not derive from Task, and those of before it had parts have none.
    parts: Mapping[str, tuple[float, Task]] = getattr(task, "eval_parts", dict)()
    if parts:
        options = EvalOptions(batch_size=batch_size, context=context, precision=precision, documents=documents)
        return _evaluate_parts(model, parts, split, max_tokens, progress, options, ranks)
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    is_whole = documents == "joined"
    num_targets = task.num_eval_targets(split, context, max_tokens) if progress and is_whole else None
    begin, ranks = time.perf_counter(), ranks or Ranks()
    with eval_mode(model), whole_ends(model), torch.no_grad():
        source = task.eval_batches if is_whole else partial(_documents, task)
        batches = source(split, batch_size, context, max_tokens)
        for (inputs, targets), is_own in ranks.share(batches):
            for chunk in _evaluate_batch(model, task, inputs, targets, precision):
                for name, (total, count) in chunk.items():
                    sums[name] += float(total) * is_own
                    counts[name] += int(count) * is_own
            if progress is not None:
                progress(_num_done(counts["loss"], ranks, num_targets), num_targets)
    if ranks.count > 1:
        names = sorted(sums)
        sums = dict(zip(names, ranks.sum(*(sums[name] for name in names)), strict=True))
        counts = dict(zip(names, map(int, ranks.sum(*(counts[name] for name in names))), strict=True))
    if not counts["loss"]:
        raise ArchlabError(f"the {split} split has no token to predict")
    metrics = {name: sums[name] / max(counts[name], 1) for name in sums}
    if "bpb" in task.metrics and task.has_bits_per_byte(split):
        metrics["bpb"] = metrics["loss"] / math.log(2) / task.bytes_per_evaluated_token(split, max_tokens)
    return EvalResult(split, metrics, counts["loss"], counts["loss"] / (time.perf_counter() - begin))


def _documents(
    task: Task, split: str, batch_size: int, context: int, max_tokens: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets of the documents in each batch, those of similar lengths together."""
    for documents in task.eval_documents(split, batch_size, context, max_tokens):
        yield from group_by_length(documents)


def _num_done(own: int, ranks: Ranks, total: int | None) -> int:
    """Return about how many targets all ranks have evaluated: each knows its own alone."""
    done = own * (ranks.count // ranks.layout.tensor)
    return own if ranks.count == 1 else done if total is None else min(done, total)


def _evaluate_parts(
    model: nn.Module,
    parts: Mapping[str, tuple[float, Task]],
    split: str,
    max_tokens: int | None,
    progress: EvalProgress | None,
    options: EvalOptions,
    ranks: Ranks | None,
) -> EvalResult:
    """Evaluate each part by itself; the loss of all is the mean of theirs, as often as they are trained on."""
    own_tokens = None if max_tokens is None else math.ceil(max_tokens / len(parts))
    begin, tokens, metrics = time.perf_counter(), 0, dict[str, float]()
    nats = num_bytes = 0.0
    for name, (share, part) in parts.items():
        report = None if progress is None else partial(_tell_after, progress, tokens)
        result = evaluate(model, part, split, max_tokens=own_tokens, progress=report, ranks=ranks, **options)
        tokens += result.tokens
        nats += share * result.metrics["loss"]
        metrics[f"loss_{name}"] = result.metrics["loss"]
        is_right = "bpb" in result.metrics
        num_bytes += share * part.bytes_per_evaluated_token(split, own_tokens) if is_right else math.nan
    # A part of unknown size leaves the total unknown.
    bits = {} if math.isnan(num_bytes) else {"bpb": nats / math.log(2) / num_bytes}
    return EvalResult(split, {"loss": nats, **bits, **metrics}, tokens, tokens / (time.perf_counter() - begin))


def _tell_after(progress: EvalProgress, before: int, done: int, total: int | None) -> None:
    progress(before + done, None)


def autocast(model: nn.Module, precision: str) -> torch.autocast:
    """Return a context in which a model computes in a precision, on the device where it is."""
    dtype = _AUTOCAST[precision]
    return torch.autocast(device_of(model).type, dtype, enabled=dtype is not None)


def _evaluate_batch(model: nn.Module, task: Task, inputs: Tensor, targets: Tensor, precision: str) -> list[Any]:
    """Return the sums and counts of each metric for each chunk of logits."""
    device, sums = device_of(model), []
    with autocast(model, precision):
        for logits, chunk_targets in iter_logits(
            model, inputs.to(device), targets.to(device), metrics_are_per_token=task.metrics_are_per_token
        ):
            with without_autocast(logits):  # the loss is summed in float32 at least, whatever the precision
                sums.append(task.compute_metrics(logits, chunk_targets))
    return sums
