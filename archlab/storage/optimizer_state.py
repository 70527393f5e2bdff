"""Optimizer states by parameter name, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from archlab.errors import ArchlabError
from archlab.parallel.parts import local_of, with_local
from archlab.storage.json_values import is_finite
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


def check_optimizer(
    model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]], source: Path
) -> None:
    """Raise ArchlabError unless an optimizer can continue from `tensors_of` and `groups_of` of a checkpoint.

    Of tensors that ranks divide, it is given this one's parts.
    """
    own = groups_of(model, optimizer)
    if [group["params"] for group in own] != [group["params"] for group in groups]:
        raise ArchlabError(f"{source}: its optimizer has other parameter groups than this run's")
    for index, (mine, saved) in enumerate(zip(own, groups, strict=True)):
        _check_settings(mine, saved, f"{source}: its optimizer's group {index}")
    shapes = {name: local_of(tensor).shape for name, tensor in named_tensors(model).items()}
    listed = {name for group in own for name in group["params"]}
    keys, found = _state_keys(optimizer), dict[str, set[str]]()
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        if key not in keys or name not in listed:
            raise ArchlabError(f"{source}: {full_name!r} is no state of this run's optimizer")
        _check_moment(key, tensor, shapes[name], f"{source}: {full_name!r}")
        found.setdefault(name, set()).add(key)
    for name, present in found.items():
        if present != keys:
            raise ArchlabError(f"{source}: its optimizer has no {sorted(keys - present)[0]!r} of {name!r}")


def _state_keys(optimizer: Optimizer) -> set[str]:
    """Return the names of the tensors that an optimizer keeps for each parameter, which no optimizer lists."""
    probe = nn.Parameter(torch.zeros(1))
    probe.grad = torch.zeros(1)
    constructor: Any = type(optimizer)  # the base class asks for defaults, which each optimizer has
    probing = constructor([probe])
    probing.param_groups[0].update(optimizer.defaults)  # which hold more than the constructor takes
    probing.step()
    return set(probing.state[probe])


def _check_settings(own: Mapping[str, Any], saved: Mapping[str, Any], place: str) -> None:
    for key, value in own.items():
        if key not in saved or key == "params":
            continue
        if key == "lr":  # set anew at each step
            if not is_finite(saved[key]):
                raise ArchlabError(f"{place}: lr {saved[key]!r:.40} is not a finite number")
        elif saved[key] != (list(value) if isinstance(value, tuple) else value):
            raise ArchlabError(f"{place}: {key} is {saved[key]!r:.40} there and {value!r:.40} in the experiment")


def _check_moment(key: str, tensor: Tensor, shape: torch.Size, place: str) -> None:
    expected = torch.Size() if key == "step" else shape
    if not tensor.is_floating_point() or tensor.shape != expected:
        kind = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        raise ArchlabError(f"{place} is {kind} and not float {list(expected)}")
    numbers = tensor.float()  # the smallest types have no functions of their own
    if not numbers.isfinite().all():
        raise ArchlabError(f"{place} holds a number that is not finite")
    # Counts and squares: below 0 the next step would be NaN.
    if (key == "step" or key.endswith("_sq")) and (numbers < 0).any():
        raise ArchlabError(f"{place} holds a number below 0")


def restore_optimizer(
    model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Restore a state that `check_optimizer` has passed.

    The implementation (foreach, fused, capturable) remains the optimizer's own.
    """
    # torch's state_dict numbers parameters in the order of their groups.
    names = [name for group in groups_of(model, optimizer) for name in group["params"]]
    indices, own = {name: index for index, name in enumerate(names)}, named_tensors(model)
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        state.setdefault(indices[name], {})[key] = tensor if key == "step" else with_local(own[name], tensor)
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
