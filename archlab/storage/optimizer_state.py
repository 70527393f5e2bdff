"""Optimizer states by parameter name, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from archlab.errors import ArchlabError
from archlab.storage.tensors import named_tensors

# How an optimizer computes and not what: a run may resume on a device that needs another implementation.
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


def tensors_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state tensors by name: `exp_avg.<parameter name>` and so on."""
    names = _names(model)
    states = {names[id(parameter)]: state for parameter, state in optimizer.state.items()}
    return {f"{key}.{name}": value for name, state in states.items() for key, value in state.items()}


def groups_of(model: nn.Module, optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups as JSON data: settings, and parameters by name."""
    names = _names(model)
    return [
        {**_settings(group), "params": [names[id(parameter)] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]


def restore_optimizer(
    model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]], source: Path
) -> None:
    """Restore the state from `tensors_of` and `groups_of`; raise ArchlabError if the groups differ.

    The implementation (foreach, fused, capturable) remains the optimizer's own.
    """
    own = groups_of(model, optimizer)
    if [group["params"] for group in own] != [group["params"] for group in groups]:
        raise ArchlabError(f"{source}: its optimizer has other parameter groups than this run's")
    # torch's state_dict numbers parameters in the order of their groups.
    indices = {name: index for index, name in enumerate(name for group in own for name in group["params"])}
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        state.setdefault(indices[name], {})[key] = tensor
    current = optimizer.state_dict()["param_groups"]
    merged = [_merge_group(group, saved) for group, saved in zip(current, groups, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})


def _names(model: nn.Module) -> dict[int, str]:
    return {id(tensor): name for name, tensor in named_tensors(model).items()}


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in group.items() if key not in ("params", *_IMPLEMENTATION)}
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in settings.items()}


def _merge_group(group: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _cast_like(value, saved[key]) if key in saved and key != "params" else value
        for key, value in group.items()
    }


def _cast_like(value: Any, saved: Any) -> Any:
    # JSON has neither tensors, which a capturable optimizer keeps its learning rate in, nor tuples.
    if isinstance(value, Tensor):
        return value.new_tensor(saved)
    return tuple(saved) if isinstance(value, tuple) else saved
