"""The loss of a model on targets, in parts where all scores at once would be too many.

A model that is to be asked in parts has `features`, all of it below its head, and the head a `matrix` [V, D] of which
scores are products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from archlab.modeling.state import State
from archlab.ops.dtypes import at_least_float32
from archlab.ops.linear_cross_entropy import IGNORED, MAX_CHUNK_LOGITS, linear_cross_entropy


def mean_loss(model: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, State]:
    """Return the mean cross-entropy in nats over targets other than -100, and the model's last state."""
    matrix = chunked_output_weight(model, targets.numel())
    if matrix is None:
        logits, state = model(inputs)
        return F.cross_entropy(at_least_float32(logits.flatten(0, -2)), targets.flatten(), ignore_index=IGNORED), state
    features, state = model.features(inputs)
    return linear_cross_entropy(features.flatten(0, -2), matrix, targets.flatten()), state


def iter_logits(
    model: Any, inputs: Tensor, targets: Tensor, *, metrics_are_per_token: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scores and their targets, all together or, where those are many, by sample and then by step if allowed."""
    matrix = chunked_output_weight(model, targets.numel())
    if matrix is None:
        yield model(inputs)[0], targets
        return
    features, _ = model.features(inputs)
    steps = max(1, MAX_CHUNK_LOGITS // len(matrix)) if metrics_are_per_token else targets.shape[1]
    for sample, wanted in zip(features.split(1), targets.split(1), strict=True):
        for x, target in zip(sample.split(steps, 1), wanted.split(steps, 1), strict=True):
            yield model.head(x), target


def chunked_output_weight(model: Any, num_targets: int) -> Tensor | None:
    """Return the head's matrix, where the scores of so many targets are too many to hold."""
    matrix: Tensor | None = getattr(getattr(model, "head", None), "matrix", None)
    if matrix is None or not hasattr(model, "features") or num_targets * len(matrix) <= MAX_CHUNK_LOGITS:
        return None
    return matrix
