"""AdamW, its parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from archlab.config.train_config import TrainConfig
from archlab.modeling.param_scales import ParamScale
from archlab.parallel.shard import MixedAdamW, has_both_kinds

START_LR_RATIO = 1e-4  # not 0: the first step would change nothing


def build_optimizer(
    model: nn.Module, train: TrainConfig, scales: Mapping[str, ParamScale] | None = None
) -> torch.optim.AdamW:
    """Build a fused AdamW that decays all parameters, or with `decay: matrices` those of two or more dimensions.

    Parameters of different `scales`, those of `parametrize`, are in groups of their own, whose `lr_scale` multiplies
    the learning rate.
    """
    groups = _standard_groups(model, train) if scales is None else _scaled_groups(model, train, scales)
    optimizer = MixedAdamW if has_both_kinds(model) else torch.optim.AdamW
    return optimizer(
        [group for group in groups if group["params"]],
        lr=train.lr,
        betas=(train.beta1, train.beta2),
        eps=train.eps,
        fused=True,
    )


def _standard_groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if _is_decayed(p, train)]
    undecayed = [p for p in parameters if not _is_decayed(p, train)]
    return [{"params": decayed, "weight_decay": train.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]


def _scaled_groups(model: nn.Module, train: TrainConfig, scales: Mapping[str, ParamScale]) -> list[dict[str, Any]]:
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = train.weight_decay * scales[name].decay if _is_decayed(parameter, train) else 0.0
            groups.setdefault((scales[name].lr, train.eps * scales[name].eps, decay), []).append(parameter)
    return [
        {"params": params, "lr_scale": lr, "eps": eps, "weight_decay": decay}
        for (lr, eps, decay), params in groups.items()
    ]


def _is_decayed(parameter: nn.Parameter, train: TrainConfig) -> bool:
    return train.decay == "all" or parameter.dim() >= 2


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
