"""The contract of the kind `optimizer`: how the parameters of a model are updated, and the state of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from archlab.config.train_config import OPTIMIZER_PATH, TrainConfig
from archlab.errors import ConfigError
from archlab.modeling.param_roles import DeclaredParam, declared_param

# The point at which an optimizer trains, in its state while the model has the average of such points.
TRAINED = "trained"
# The optimizer's state tensors of each parameter, by the names of both.
StateShapes: TypeAlias = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class AdamSettings:
    """The settings of Adam that `train:` has, for the parameters that an optimizer updates as Adam does."""

    betas: tuple[float, float]
    eps: float


@dataclass(frozen=True, eq=False)
class TrainedParam:
    """A parameter that is trained: its name in the model, its shape, and its component's declaration."""

    model: nn.Module
    name: str
    tensor: nn.Parameter

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor, of which a rank may have a part."""
        return tuple(self.tensor.shape)

    @cached_property
    def declared(self) -> DeclaredParam:
        """The declaration; raises ConfigError for a parameter that its component does not declare."""
        return declared_param(self.model, self.name, OPTIMIZER_PATH)


class UpdateRule(ABC):
    """How parameters are updated; constructed with (adam).

    `divided_by` are the axes of `parallel:` that may divide tensors: each number of a rank's part is updated by its own
    gradient alone, or the rule gathers the tensors that it needs. `parametrizations` are those whose rules, derived for
    Adam, hold. `averages` says that parameters are trained at one point, and evaluated, exported and saved at another.
    """

    divided_by: ClassVar[Sequence[str]] = ("shard", "tensor")
    parametrizations: ClassVar[Sequence[str]] = ("standard", "mup", "completep")
    averages: ClassVar[bool] = False
    product_dtype: ClassVar[torch.dtype] = torch.float32

    def settings(self, param: TrainedParam) -> Mapping[str, object]:
        """Return settings by which a parameter's group is distinguished from those of others, of JSON's types."""
        return {}

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of parameter groups, which have `params`, `weight_decay`, `lr` and `settings`.

        Its state has one tensor for each of `state_shapes`. Settings of groups that its steps change are in its
        `progress`. Of a rule that averages, it has a method `averaged(parameter)`, which returns the other point.
        """

    @abstractmethod
    def state_shapes(self, param: TrainedParam) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of a parameter's state tensors, by name; () is a scalar."""

    def update_flops(self, param: TrainedParam) -> int:
        """Return the FLOPs of matrix products, in `product_dtype`, of an update; all ranks compute all of them."""
        return 0


def update_rule(train: TrainConfig) -> UpdateRule:
    """Return the update rule of an experiment; raise ConfigError if it does not go with the parametrization."""
    rule: UpdateRule = train.optimizer_factory(AdamSettings((train.beta1, train.beta2), train.eps))
    if train.parametrization not in rule.parametrizations:
        problem = f"{train.optimizer_name!r} has no rules for train.parametrization {train.parametrization!r}"
        raise ConfigError(OPTIMIZER_PATH, f"{problem}; it takes {', '.join(rule.parametrizations)}")
    return rule


def trained_params(model: nn.Module) -> list[TrainedParam]:
    """Return the parameters of a model that are trained, shared ones once."""
    return [TrainedParam(model, name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]


def saved_shapes(train: TrainConfig, model: nn.Module) -> StateShapes:
    """Return the shapes of each trained parameter's state tensors in a checkpoint."""
    rule = update_rule(train)
    return {
        param.name: {**rule.state_shapes(param), **({TRAINED: param.shape} if rule.averages else {})}
        for param in trained_params(model)
    }


def optimizer_bytes(train: TrainConfig, model: nn.Module) -> int:
    """Return the bytes of tensors that the optimizer keeps of a model's parameters, which may be on meta."""
    rule = update_rule(train)
    # Numbers that count updates are left out, as small as they are.
    return sum(
        prod(shape) * param.tensor.element_size()
        for param in trained_params(model)
        for shape in rule.state_shapes(param).values()
        if shape
    )


def update_flops(train: TrainConfig, model: nn.Module) -> int:
    """Return the FLOPs of the matrix products in an update of all parameters."""
    rule = update_rule(train)
    return sum(rule.update_flops(param) for param in trained_params(model))


@contextmanager
def at_average(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Have parameters in a block at the point that is used; most optimizers train at no other one."""
    averaged = getattr(optimizer, "averaged", None)
    if averaged is None:
        yield
        return
    leave_average(optimizer)  # a signal may have ended the last block halfway
    try:
        _enter_average(optimizer, averaged)
        yield
    finally:
        leave_average(optimizer)


@torch.no_grad()
def _enter_average(optimizer: torch.optim.Optimizer, averaged: Callable[[nn.Parameter], Tensor]) -> None:
    for parameter in _parameters(optimizer):
        if state := optimizer.state.get(parameter):  # before the first update there is none
            average = averaged(parameter)
            state[TRAINED] = parameter.detach().clone()
            parameter.copy_(average)


@torch.no_grad()
def leave_average(optimizer: torch.optim.Optimizer) -> None:
    """Put parameters back to the point at which they are trained, bit for bit."""
    for parameter in _parameters(optimizer):
        if TRAINED in (state := optimizer.state.get(parameter, {})):
            parameter.copy_(state[TRAINED])
            del state[TRAINED]


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
