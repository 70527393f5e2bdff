"""The optimizer of a run."""

from __future__ import annotations

import torch
from torch import nn

from archlab.config.train_config import TrainConfig
from archlab.modeling.optimizer import update_rule
from archlab.modeling.param_groups import Scales, param_groups


def build_optimizer(model: nn.Module, train: TrainConfig, scales: Scales | None = None) -> torch.optim.Optimizer:
    """Build the optimizer that `train:` names, of all parameters that are trained.

    It decays all parameters, or with `decay: matrices` those of two or more dimensions. Parameters of different
    `scales`, those of `parametrize`, are in groups of their own.
    """
    rule = update_rule(train)
    return rule.build([{**group, "lr": train.lr} for group in param_groups(model, train, rule, scales)])
