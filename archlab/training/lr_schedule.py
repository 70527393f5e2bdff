"""The learning-rate schedule of a run."""

from __future__ import annotations

import math

from archlab.config.train_config import TrainConfig

START_LR_RATIO = 1e-4  # not 0: the first step would change nothing


def lr_multiplier(step: int, train: TrainConfig) -> float:
    """Return the factor of the learning rate at a step, counted from 0.

    It rises linearly from 1e-4 over the warm-up, then falls to `end_lr_ratio` at `steps`; with wsd (warm-up, stable,
    decay: arXiv:2404.06395, arXiv:2405.18392) it stays at 1 and falls in the last `decay_fraction` of the steps alone.
    """
    warmup = train.warmup_steps
    if step < warmup:
        return START_LR_RATIO + step * (1 - START_LR_RATIO) / warmup
    if train.schedule == "constant":
        return 1.0
    begin = max(warmup, train.decay_start) if train.schedule == "wsd" else warmup
    done = min(1.0, max(0.0, (step - begin) / max(1, train.steps - begin)))
    if train.schedule in ("linear", "wsd"):
        return done * train.end_lr_ratio + (1 - done)
    return train.end_lr_ratio + 0.5 * (1 - train.end_lr_ratio) * (1 + math.cos(math.pi * done))
