"""The groups of parameters that an optimizer updates with one learning rate, weight decay and epsilon each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import nn

from archlab.config.param_groups import ParamGroup
from archlab.config.train_config import TrainConfig
from archlab.errors import ConfigError, did_you_mean
from archlab.modeling.optimizer import TrainedParam, UpdateRule, trained_params
from archlab.modeling.param_scales import ParamScale

Scales: TypeAlias = Mapping[str, ParamScale]
_PATH = "train.groups"


def param_groups(
    model: nn.Module, train: TrainConfig, rule: UpdateRule, scales: Scales | None = None
) -> list[dict[str, Any]]:
    """Return the groups of a model's parameters: decayed ones first, or under `scales` as the model has them.

    `lr_scale` multiplies the learning rate. Raises ConfigError for one of `train.groups` that no parameter is in.
    """
    groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for param, own in group_params(model, train).items():
        settings = {**_settings(param, train, own, scales), **rule.settings(param)}
        # Runs that were started before there was a choice of optimizers have their groups so, and resume.
        is_last = scales is None and not _is_decayed(param, train, own)
        groups.setdefault((is_last, *settings.items()), []).append(param.tensor)
    keys = sorted(groups, key=lambda key: bool(key[0]))
    return [{"params": groups[key], **dict(key[1:])} for key in keys]


def _settings(param: TrainedParam, train: TrainConfig, own: ParamGroup | None, scales: Scales | None) -> dict[str, Any]:
    scale = None if scales is None else scales[param.name]
    decay = _decay(param, train, own) * (1.0 if scale is None else scale.decay)
    lr = (1.0 if scale is None else scale.lr) * ((own and own.lr_scale) or 1.0)
    given = {"lr_scale": lr} if scale is not None or lr != 1 else {}
    return {**given, **({} if scale is None else {"eps": train.eps * scale.eps}), "weight_decay": decay}


def _decay(param: TrainedParam, train: TrainConfig, own: ParamGroup | None) -> float:
    if own is not None and own.weight_decay is not None:
        return own.weight_decay
    return train.weight_decay if _is_decayed(param, train, own) else 0.0


def _is_decayed(param: TrainedParam, train: TrainConfig, own: ParamGroup | None) -> bool:
    if own is not None and own.weight_decay is not None:
        return own.weight_decay > 0
    return train.decay == "all" or param.tensor.dim() >= 2


def group_params(model: nn.Module, train: TrainConfig) -> dict[TrainedParam, ParamGroup | None]:
    """Return each trained parameter with the first of `train.groups` that it is in, or None.

    Raises ConfigError for a group that no parameter is in.
    """
    params, groups = trained_params(model), train.groups or []
    found = {param: next((group for group in groups if _is_in(param, group)), None) for param in params}
    for index, group in enumerate(groups):
        if not any(own is group for own in found.values()):
            raise ConfigError(f"{_PATH}[{index}]", _describe_empty(group, params))
    return found


def _is_in(param: TrainedParam, group: ParamGroup) -> bool:
    return group.has_name(param.name) and (group.role is None or param.declared.param.role == group.role)


def _describe_empty(group: ParamGroup, params: list[TrainedParam]) -> str:
    if any(_is_in(param, group) for param in params):
        return "all of its parameters are in groups before it, of which the first counts"
    wanted = " and ".join(f"{key} {value!r}" for key in ("match", "role") if (value := getattr(group, key)) is not None)
    return f"no parameter has {wanted}{did_you_mean(group.match or '', [param.name for param in params])}"
