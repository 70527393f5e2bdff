"""AdamW and the learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn

from archlab.config.train_config import TrainConfig

START_LR_RATIO = 1e-4


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """Return fused AdamW; weight decay falls on everything, or on tensors of two or more dimensions only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if train.decay == "all" or p.dim() >= 2]
    spared = [p for p in parameters if train.decay == "matrices" and p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        eps=train.eps,
        fused=True,
    )


def lr_multiplier(step: int, train: TrainConfig) -> float:
    """Return what multiplies the learning rate of the update number `step`, counted from 0.

    It rises linearly from 1e-4 over `warmup` updates, then falls to `end_lr_ratio` at `steps`.
    """
    if step < train.warmup:
        return START_LR_RATIO + step * (1 - START_LR_RATIO) / train.warmup
    if train.schedule == "constant":
        return 1.0
    done = min(1.0, (step - train.warmup) / max(1, train.steps - train.warmup))
    if train.schedule == "linear":
        return done * train.end_lr_ratio + (1 - done)
    return train.end_lr_ratio + 0.5 * (1 - train.end_lr_ratio) * (1 + math.cos(math.pi * done))
