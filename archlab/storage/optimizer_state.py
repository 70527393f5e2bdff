"""Optimizer states by parameter name, without pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from archlab.errors import ArchlabError
from archlab.modeling.optimizer import StateShapes
from archlab.parallel.parts import local_of, with_local
from archlab.storage.json_values import is_finite
from archlab.storage.tensors import named_tensors

# Settings that do not change an optimizer's results: a run may resume on a device that needs another implementation.
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
    model: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor],
    groups: list[dict[str, Any]],
    source: Path,
    shapes: StateShapes | None = None,
) -> None:
    """Raise ArchlabError unless an optimizer can continue from `tensors_of` and `groups_of` of a checkpoint.

    Of tensors that ranks divide, it is given this one's parts. `shapes` are those of each parameter's full state
    tensors; without them, the state is that of one of torch's own optimizers.
    """
    own = groups_of(model, optimizer)
    if [group["params"] for group in own] != [group["params"] for group in groups]:
        raise ArchlabError(f"{source}: its optimizer has other parameter groups than this run's")
    for index, (mine, saved) in enumerate(zip(own, groups, strict=True)):
        _check_settings(mine, saved, _progress(optimizer), f"{source}: its optimizer's group {index}")
    expected, found = _local_shapes(model, own, shapes or _probe(model, optimizer)), dict[str, set[str]]()
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        if key not in expected.get(name, {}):
            raise ArchlabError(f"{source}: {full_name!r} is not a state of this run's optimizer")
        _check_moment(key, tensor, expected[name][key], f"{source}: {full_name!r}")
        found.setdefault(name, set()).add(key)
    for name, present in found.items():
        if missing := expected[name].keys() - present:
            raise ArchlabError(f"{source}: its optimizer has no {min(missing)!r} of {name!r}")


def _progress(optimizer: Optimizer) -> tuple[str, ...]:
    """Return the settings of groups that steps change; the learning rate is set again at each one."""
    return ("lr", *getattr(optimizer, "progress", ()))


def _local_shapes(
    model: nn.Module, groups: list[dict[str, Any]], shapes: StateShapes
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the shapes of this rank's state: its part, where a state has the shape of a divided parameter."""
    own = named_tensors(model)
    return {
        name: {
            key: tuple(local_of(own[name]).shape) if shape == tuple(own[name].shape) else tuple(shape)
            for key, shape in shapes[name].items()
        }
        for group in groups
        for name in group["params"]
    }


def _probe(model: nn.Module, optimizer: Optimizer) -> StateShapes:
    """Return the shapes of the state of torch's optimizers for each parameter, which none of them lists."""
    keys = _state_keys(optimizer)
    return {
        name: {key: () if key == "step" else tuple(tensor.shape) for key in keys}
        for name, tensor in named_tensors(model).items()
    }


def _state_keys(optimizer: Optimizer) -> set[str]:
    """Return the names of the tensors that an optimizer keeps for each parameter."""
    probe = nn.Parameter(torch.zeros(1))
    probe.grad = torch.zeros(1)
    constructor: Any = type(optimizer)  # the base class asks for defaults, which each optimizer has
    probing = constructor([probe])
    probing.param_groups[0].update(optimizer.defaults)  # which hold more than the constructor takes
    probing.step()
    return set(probing.state[probe])


def _check_settings(own: Mapping[str, Any], saved: Mapping[str, Any], progress: Sequence[str], place: str) -> None:
    for key, value in own.items():
        if key not in saved or key == "params":
            continue
        if key in progress:
            if not is_finite(saved[key]):
                raise ArchlabError(f"{place}: {key} {saved[key]!r:.40} is not a finite number")
        elif saved[key] != (list(value) if isinstance(value, tuple) else value):
            raise ArchlabError(f"{place}: {key} is {saved[key]!r:.40} there and {value!r:.40} in the experiment")


def _check_moment(key: str, tensor: Tensor, expected: tuple[int, ...], place: str) -> None:
    if not tensor.is_floating_point() or tensor.shape != expected:
        kind = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        raise ArchlabError(f"{place} is {kind} and not float {list(expected)}")
    numbers = tensor.float()  # the smallest types have no functions of their own
    if not numbers.isfinite().all():
        raise ArchlabError(f"{place} holds a number that is not finite")
    # Counts and squares: below 0 the next step would be NaN.
    if (key == "step" or key.endswith(("_sq", "_var", "variance"))) and (numbers < 0).any():
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
        is_part = tensor.shape == local_of(own[name]).shape  # and no count of steps, nor an undivided state
        state.setdefault(indices[name], {})[key] = with_local(own[name], tensor) if is_part else tensor
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
