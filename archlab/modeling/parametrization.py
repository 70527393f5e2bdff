"""A new model's initial values, scaled from those of a base model so that hyperparameters transfer.

There are no multipliers in the model: Adam cannot distinguish a parameter W with a factor c in front from a parameter
cW whose initial value and learning rate are c times as large, and whose epsilon and decay are c times as small. So
every factor is folded into initial values and the optimizer's groups, and a saved, exported or compiled model is like
any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archlab.config.experiment import Experiment
from archlab.config.train_config import TrainConfig
from archlab.modeling.build import build, build_base_on_meta
from archlab.modeling.param_scales import ParamScale, base_spec, depth_ratio, iter_branches, param_scales


def parametrize(experiment: Experiment, model: nn.Module) -> dict[str, ParamScale] | None:
    """Scale a new model's initial values in place, and return the scale of each parameter; None under `standard`.

    Raises ConfigError for a parameter without a declared role, or a base that does not fit.
    """
    train = experiment.train
    if train.parametrization == "standard":
        return None
    spec = base_spec(experiment)
    scales = param_scales(train, model, build_base_on_meta(experiment))
    if spec.to_plain() != experiment.model.to_plain():
        _match_rms(model, build(spec, "cpu", train.seed), scales)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(scales[name].factor)
    for module in _gated_branches(train, model):
        module.shrink_branch(1 / depth_ratio(train, model))  # type: ignore[operator]
    return scales


def _gated_branches(train: TrainConfig, model: nn.Module) -> list[nn.Module]:
    """Return the branches that no parameter scales, and that shrink themselves."""
    if train.parametrization != "completep" or depth_ratio(train, model) == 1:
        return []
    return [module for module in iter_branches(model) if hasattr(module, "shrink_branch")]


@torch.no_grad()
def _match_rms(model: nn.Module, base: nn.Module, scales: Mapping[str, ParamScale]) -> None:
    """Scale each initialized parameter by the ratio of its initial size in the base and here; inits vary in law."""
    drawn = dict(base.named_parameters())
    for name, parameter in model.named_parameters():
        ratio, own, other = scales[name].rms, _rms(parameter), _rms(drawn[name])
        if ratio is not None and own > 0 and other > 0:  # zeros stay
            parameter.mul_(ratio * other / own)


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())
