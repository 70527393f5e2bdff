"""The declared roles of a built model's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import nn

from archlab.config.param_roles import Param, find_param
from archlab.config.registry import Component, component_of
from archlab.errors import ConfigError

PATH = "train.parametrization"


@dataclass(frozen=True)
class DeclaredParam:
    """A parameter's declaration, the module of the component that declares it, and the parameter's name in there."""

    param: Param
    owner: nn.Module
    name: str


def declared_params(model: nn.Module) -> dict[str, DeclaredParam]:
    """Return the declaration of every parameter by its name in the model, shared ones once.

    Raises ConfigError for the first parameter that its component does not declare.
    """
    return {name: declared_param(model, name) for name, _ in model.named_parameters()}


def declared_param(model: nn.Module, name: str, path: str = PATH) -> DeclaredParam:
    """Return the declaration of a parameter; raise ConfigError at `path` if its component does not declare it."""
    prefix, owner, component = owner_of(model, name)
    own = name.removeprefix(prefix)
    declared = component.params if component else {}
    key = find_param(declared, own)
    if component is None or key is None:
        who = f"{component.kind} {component.name!r}" if component else f"{type(owner).__name__}, not registered,"
        wanted = f'register(..., params={{"{own}": Param("hidden")}}), or with another role'
        raise ConfigError(path, f"{who} declares no role of its parameter {own!r}: write {wanted}")
    return DeclaredParam(declared[key], owner, own)


def owner_of(model: nn.Module, name: str) -> tuple[str, nn.Module, Component | None]:
    """Return the innermost component around a parameter, with the prefix of its parameters' names."""
    found: tuple[str, nn.Module, Component | None] = ("", model, component_of(type(model)))
    module, prefix = model, ""
    for part in name.split(".")[:-1]:
        module, prefix = getattr(module, part), f"{prefix}{part}."
        if component := component_of(type(module)):
            found = (prefix, module, component)
    return found


def read_number(declared: DeclaredParam, attribute: str) -> float:
    """Return a number that a declaration's `scale` names; raise ConfigError if there is none."""
    try:
        value: Any = reduce(getattr, attribute.split("."), declared.owner)
    except AttributeError:
        value = None
    if not isinstance(value, int | float) or value <= 0:
        name = type(declared.owner).__name__
        raise ConfigError(PATH, f"{name} has no number {attribute!r}, by which its {declared.name!r} scales")
    return float(value)


def branch_params(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that a branch's output is proportional to."""
    component = component_of(type(module))
    for name, parameter in module.named_parameters() if component else ():
        declared = declared_param(module, name)
        if declared.owner is module and declared.param.branch:
            yield parameter
