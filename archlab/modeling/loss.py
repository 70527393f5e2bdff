"""Cross-entropy of a model, in chunks of tokens if all logits at once would take too much memory.

Chunks need a model with `features` and `head.matrix` or `head.loss_terms` (see `archlab.modeling.backbone`). [V, D]
outputs, width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.modeling.backbone import (
    apply_head,
    further_weight,
    get_features,
    get_further_targets,
    get_loss_terms,
    get_output_split,
    num_outputs,
    output_soft_cap,
    output_weight,
)
from archlab.modeling.state import State
from archlab.ops.dtypes import at_least_float32, without_autocast
from archlab.ops.linear_cross_entropy import IGNORED, MAX_CHUNK_LOGITS, linear_cross_entropy
from archlab.ops.split_cross_entropy import split_cross_entropy


def training_losses(
    model: nn.Module, inputs: Tensor, targets: Tensor, initial: State | None = None
) -> tuple[Tensor, Tensor, State]:
    """Return `total_loss`, the weighted losses of further tokens that the head predicts in training, and the state."""
    further, features = get_further_targets(model), get_features(model)
    if further is None or features is None:
        total, state = total_loss(model, inputs, targets, initial)
        return total, total.new_zeros(()), state
    x_BTD, state = features(inputs, *(() if initial is None else (initial,)))
    losses = [_head_loss(model, *pair) for pair in further(x_BTD, inputs, targets)]
    total = _head_loss(model, x_BTD, targets)
    return total, further_weight(model) * sum(losses, start=total.new_zeros(())), state


def total_loss(model: nn.Module, inputs: Tensor, targets: Tensor, initial: State | None = None) -> tuple[Tensor, State]:
    """Return the cross-entropy in nats, summed over the targets that are not -100, and the last state.

    A sum, because a mean cannot be averaged over parts of a batch, such as micro-batches, that have different numbers
    of targets: divide by `count_targets` of the whole.
    """
    started = () if initial is None else (initial,)
    weight_VD, features = chunked_output_weight(model, targets.numel()), get_features(model)
    needs_logits = weight_VD is None and get_output_split(model) is None and get_loss_terms(model) is None
    if features is None or needs_logits:
        logits, state = model(inputs, *started)
        return _sum_losses(logits, targets), state
    x_BTD, state = features(inputs, *started)
    return _head_loss(model, x_BTD, targets), state


def _head_loss(model: nn.Module, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """Return the summed cross-entropy of features [B, T, D], with few logits at a time where the head allows it."""
    x_ND, target_N, soft_cap = x_BTD.flatten(0, -2), targets_BT.flatten(), output_soft_cap(model)
    terms, split, weight_VD = get_loss_terms(model), get_output_split(model), output_weight(model)
    if terms is not None:
        return torch.stack([linear_cross_entropy(*term) for term in terms(x_ND, target_N)]).sum()
    if split is not None:
        assert weight_VD is not None
        return split_cross_entropy(x_ND, weight_VD, target_N, split.first, split.group, soft_cap)
    if weight_VD is None or chunked_outputs(model, len(target_N)) is None:
        return _sum_losses(apply_head(model, x_BTD), targets_BT)
    return linear_cross_entropy(x_ND, weight_VD, target_N, soft_cap)


def _sum_losses(logits: Tensor, targets: Tensor) -> Tensor:
    logits_NV = at_least_float32(logits.flatten(0, -2))
    return F.cross_entropy(logits_NV, targets.flatten(), ignore_index=IGNORED, reduction="sum")


def token_losses(
    model: nn.Module, inputs: Tensor, targets: Tensor, initial: State | None = None
) -> tuple[Tensor, State]:
    """Return the cross-entropy in nats of each target [B, T], 0 where it is -100, and the last state; for evaluation.

    Logits of a large vocabulary are computed in chunks of tokens.
    """
    started = () if initial is None else (initial,)
    outputs, features = chunked_outputs(model, targets.numel()), get_features(model)
    if outputs is None or features is None:
        logits_BTV, state = model(inputs, *started)
        return _each_loss(logits_BTV, targets), state
    x_BTD, state = features(inputs, *started)
    steps = max(1, MAX_CHUNK_LOGITS // (outputs * len(targets)))
    chunks = zip(x_BTD.split(steps, 1), targets.split(steps, 1), strict=True)
    return torch.cat([_each_loss(apply_head(model, x), asked) for x, asked in chunks], 1), state


def _each_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    with without_autocast(logits_BTV):
        logits_BVT = at_least_float32(logits_BTV).transpose(1, 2)
        return F.cross_entropy(logits_BVT, targets_BT, ignore_index=IGNORED, reduction="none")


def count_targets(targets: Tensor) -> int:
    """Return the number of targets that are not -100; targets on the CPU, as tasks return them, wait for no device."""
    return int((targets != IGNORED).sum())


def iter_logits(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, metrics_are_per_token: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and their targets: all at once or, if those are many, one sample at a time or less.

    `metrics_are_per_token` allows a sample to be split into chunks of steps.
    """
    outputs, features = chunked_outputs(model, targets.numel()), get_features(model)
    if outputs is None or features is None:
        yield model(inputs)[0], targets
        return
    # Features of all tokens are held; logits, larger by V / D, of one chunk at a time.
    x_BTD, _ = features(inputs)
    steps = max(1, MAX_CHUNK_LOGITS // outputs) if metrics_are_per_token else targets.shape[1]
    for sample_1TD, targets_1T in zip(x_BTD.split(1), targets.split(1), strict=True):
        for chunk, chunk_targets in zip(sample_1TD.split(steps, 1), targets_1T.split(steps, 1), strict=True):
            yield apply_head(model, chunk), chunk_targets


def chunked_output_weight(model: nn.Module, num_targets: int) -> Tensor | None:
    """Return the head's weight [V, D] if the logits of this many targets are to be computed in chunks, else None."""
    return None if chunked_outputs(model, num_targets) is None else output_weight(model)


def chunked_outputs(model: nn.Module, num_targets: int) -> int | None:
    """Return the number of logits of a target if those of this many are to be computed in chunks, else None."""
    weight_VD, outputs = output_weight(model), num_outputs(model)
    outputs = outputs if weight_VD is None else len(weight_VD)
    if outputs is None or (weight_VD is None and get_loss_terms(model) is None):
        return None
    return outputs if num_targets * outputs > MAX_CHUNK_LOGITS else None
