"""Cross-entropy of a model, in chunks of tokens if all logits at once would take too much memory.

Chunks need a model with `features` and `head.matrix` (see `archlab.modeling.backbone`). [V, D] outputs, width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.modeling.backbone import apply_head, get_features, get_output_split, output_soft_cap, output_weight
from archlab.modeling.state import State
from archlab.ops.dtypes import at_least_float32, without_autocast
from archlab.ops.linear_cross_entropy import IGNORED, MAX_CHUNK_LOGITS, linear_cross_entropy
from archlab.ops.split_cross_entropy import split_cross_entropy


def total_loss(model: nn.Module, inputs: Tensor, targets: Tensor, initial: State | None = None) -> tuple[Tensor, State]:
    """Return the cross-entropy in nats, summed over the targets that are not -100, and the last state.

    A sum, because a mean cannot be averaged over parts of a batch, such as micro-batches, that have different numbers
    of targets: divide by `count_targets` of the whole.
    """
    started = () if initial is None else (initial,)
    weight_VD, features = chunked_output_weight(model, targets.numel()), get_features(model)
    split, soft_cap = get_output_split(model), output_soft_cap(model)
    if split is not None and features is not None:
        x_BTD, state = features(inputs, *started)
        part_VD = output_weight(model)
        assert part_VD is not None
        x_ND, targets_N = x_BTD.flatten(0, -2), targets.flatten()
        return split_cross_entropy(x_ND, part_VD, targets_N, split.first, split.group, soft_cap), state
    if weight_VD is None or features is None:
        logits, state = model(inputs, *started)
        logits_NV = at_least_float32(logits.flatten(0, -2))
        return F.cross_entropy(logits_NV, targets.flatten(), ignore_index=IGNORED, reduction="sum"), state
    x_BTD, state = features(inputs, *started)
    return linear_cross_entropy(x_BTD.flatten(0, -2), weight_VD, targets.flatten(), soft_cap), state


def token_losses(
    model: nn.Module, inputs: Tensor, targets: Tensor, initial: State | None = None
) -> tuple[Tensor, State]:
    """Return the cross-entropy in nats of each target [B, T], 0 where it is -100, and the last state; for evaluation.

    Logits of a large vocabulary are computed in chunks of tokens.
    """
    started = () if initial is None else (initial,)
    weight_VD, features = chunked_output_weight(model, targets.numel()), get_features(model)
    if weight_VD is None or features is None:
        logits_BTV, state = model(inputs, *started)
        return _each_loss(logits_BTV, targets), state
    x_BTD, state = features(inputs, *started)
    steps = max(1, MAX_CHUNK_LOGITS // (len(weight_VD) * len(targets)))
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
    weight_VD, features = chunked_output_weight(model, targets.numel()), get_features(model)
    if weight_VD is None or features is None:
        yield model(inputs)[0], targets
        return
    # Features of all tokens are held; logits, larger by V / D, of one chunk at a time.
    x_BTD, _ = features(inputs)
    steps = max(1, MAX_CHUNK_LOGITS // len(weight_VD)) if metrics_are_per_token else targets.shape[1]
    for sample_1TD, targets_1T in zip(x_BTD.split(1), targets.split(1), strict=True):
        for chunk, chunk_targets in zip(sample_1TD.split(steps, 1), targets_1T.split(steps, 1), strict=True):
            yield apply_head(model, chunk), chunk_targets


def chunked_output_weight(model: nn.Module, num_targets: int) -> Tensor | None:
    """Return the head's weight [V, D] if the logits of this many targets are to be computed in chunks, else None."""
    weight_VD = output_weight(model)
    return weight_VD if weight_VD is not None and num_targets * len(weight_VD) > MAX_CHUNK_LOGITS else None
