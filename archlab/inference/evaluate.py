"""How well a model predicts a split.

B batch, T time, V outputs.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from archlab.errors import ArchlabError, did_you_mean
from archlab.modeling.build import device_of, eval_mode
from archlab.modeling.loss import iter_logits
from archlab.ops.dtypes import without_autocast

_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16}


def evaluate(
    model: nn.Module,
    task: Any,
    split: str,
    *,
    batch_size: int,
    context: int,
    max_tokens: int | None = None,
    precision: str = "float32",
) -> dict[str, float]:
    """Return the task's metrics (loss in nats per target, bpb in bits per byte), and tokens: the number of targets.

    Every sample is read from the beginning of time. Raises ArchlabError for a split without a target.
    """
    if precision not in _AUTOCAST:
        raise ArchlabError(f"precision: no precision {precision!r}{did_you_mean(precision, _AUTOCAST)}")
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    begin = time.perf_counter()
    with eval_mode(model), torch.no_grad():
        for inputs, targets in task.eval_batches(split, batch_size, context, max_tokens):
            for part in _evaluate_batch(model, task, inputs, targets, precision):
                for name, (total, count) in part.items():
                    sums[name] += float(total)
                    counts[name] += int(count)
    if not counts["loss"]:
        raise ArchlabError(f"the {split} split has no token to predict")
    found = {name: sums[name] / max(counts[name], 1) for name in sums}
    if "bpb" in task.metrics:
        found["bpb"] = found["loss"] / math.log(2) / task.bytes_per_token(split)
    return found | {"tokens": counts["loss"], "tokens_per_s": counts["loss"] / (time.perf_counter() - begin)}


def _evaluate_batch(model: nn.Module, task: Any, inputs: Tensor, targets: Tensor, precision: str) -> list[Any]:
    device, dtype, measured = device_of(model), _AUTOCAST[precision], []
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        for logits, wanted in iter_logits(
            model, inputs.to(device), targets.to(device), metrics_are_per_token=task.metrics_are_per_token
        ):
            with without_autocast(logits):
                measured.append(task.compute_metrics(logits, wanted))
    return measured
