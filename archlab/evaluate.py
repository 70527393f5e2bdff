"""How well a model predicts a split.

B batch, T time, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from archlab.errors import ArchlabError, suggest

_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16}
_IGNORED = -100


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
    """Return loss (nats per token), bpb (bits per byte), the number of tokens and tokens_per_s.

    Every window is read from the beginning of time. Raises ArchlabError for a split without a token to predict.
    """
    if precision not in _AUTOCAST:
        raise ArchlabError(f"precision: no precision {precision!r}{suggest(precision, _AUTOCAST)}")
    total, tokens, start = 0.0, 0, time.perf_counter()
    with evaluating(model), torch.no_grad():
        for inputs_BT, targets_BT in task.eval_batches(split, batch_size, context, max_tokens):
            total += _summed_loss(model, inputs_BT, targets_BT, precision)
            tokens += int((targets_BT != _IGNORED).sum())
    if tokens == 0:
        raise ArchlabError(f"the {split} split has no token to predict")
    loss = total / tokens
    bpb = loss / math.log(2) / task.bytes_per_token
    return {"loss": loss, "bpb": bpb, "tokens": tokens, "tokens_per_s": tokens / (time.perf_counter() - start)}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter, the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _summed_loss(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, precision: str) -> float:
    device, dtype = device_of(model), _AUTOCAST[precision]
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        logits_BTV, _ = model(inputs_BT.to(device))
    if logits_BTV.dtype in (torch.float16, torch.bfloat16):
        logits_BTV = logits_BTV.float()
    targets = targets_BT.to(device).flatten()
    return functional.cross_entropy(logits_BTV.flatten(0, 1), targets, ignore_index=_IGNORED, reduction="sum").item()
