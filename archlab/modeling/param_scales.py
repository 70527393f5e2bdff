"""Hyperparameters that transfer: initialization and Adam's settings of each parameter by width and depth.

A model is compared with its base, the same model at the width where `train.lr` was tuned. From the declared role of a
parameter, and from how much its own inputs and outputs outnumber those of the base's, follow the rules of muP for Adam
(arXiv:2203.03466, table 8) in the form of the spectral condition (arXiv:2310.17813), and those of CompleteP for depth
(arXiv:2505.01618, table 1, alpha = 1). docs/decisions/0006-transfer-without-multipliers.md derives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch
from torch import nn

from archlab.config.experiment import Experiment
from archlab.config.spec import Spec
from archlab.config.train_config import TrainConfig
from archlab.config.widths import scale_widths
from archlab.errors import ConfigError
from archlab.modeling.backbone import iter_blocks, output_weights
from archlab.modeling.param_roles import PATH, DeclaredParam, branch_params, declared_params, read_number


@dataclass(frozen=True)
class ParamScale:
    """Factors of a parameter's learning rate, epsilon and decoupled weight decay, and of its initial values.

    `rms` is the ratio of its root mean square to the base's, or None for values that are no draw around 0; `factor`
    multiplies the initial values after that.
    """

    lr: float
    eps: float
    rms: float | None
    factor: float = 1.0

    @property
    def decay(self) -> float:
        """The factor of the weight decay: AdamW multiplies it by the learning rate, and their product is constant."""
        return 1 / self.lr

    def in_block(self, depth: float) -> ParamScale:
        """Return the scale in a branch that a model `depth` times as deep as its base adds 1 / depth of."""
        return ParamScale(self.lr, self.eps / depth, self.rms, self.factor)

    def times(self, factor: float) -> ParamScale:
        """Return the scale with a factor in front of the parameter."""
        return ParamScale(self.lr * factor, self.eps / factor, self.rms, self.factor * factor)


def base_spec(experiment: Experiment) -> Spec:
    """Return the model at the base width."""
    train, dim = experiment.train, experiment.model.knobs.get("dim")
    if train.base_width is None and train.base_model is None:
        raise ConfigError(PATH, f"{train.parametrization} needs train.base_width, the model.dim where lr was tuned")
    if train.parametrization == "completep" and train.base_depth is None:
        raise ConfigError(PATH, "completep needs train.base_depth, the number of layers where lr was tuned")
    if train.base_width is not None and not isinstance(dim, int):
        raise ConfigError(
            "train.base_width", "the model has no dim to compare with: give its sizes in train.base_model"
        )
    ratio = Fraction(train.base_width or 1, dim if train.base_width and isinstance(dim, int) else 1)
    return scale_widths(experiment.model, ratio, train.base_model)


def param_scales(train: TrainConfig, model: nn.Module, base: nn.Module) -> dict[str, ParamScale]:
    """Return the scale of every parameter; raise ConfigError for one without a role, or a base that does not fit."""
    declared, base_declared = declared_params(model), declared_params(base)
    _check_base(model, base)
    _check_output(model, declared)
    shapes = {name: parameter.shape for name, parameter in base.named_parameters()}
    scales = {
        name: _scale_of(declared[name], base_declared[name], parameter.shape, shapes[name])
        for name, parameter in model.named_parameters()
    }
    return scales if train.parametrization == "mup" else _by_depth(train, model, scales)


def _scale_of(declared: DeclaredParam, base: DeclaredParam, shape: torch.Size, base_shape: torch.Size) -> ParamScale:
    param = declared.param
    multiplier = prod(
        (read_number(declared, attribute) / read_number(base, attribute)) ** power
        for attribute, power in param.scale.items()
    )
    size = shape.numel() / max(1, base_shape.numel())
    if param.role in ("vector", "input"):
        is_drawn = param.role == "input" or bool(param.scale)
        return _fold_multiplier(1.0, size, 1.0 if is_drawn else None, multiplier)
    fan_in = shape[param.fan_in] / base_shape[param.fan_in]
    if param.role == "output":
        return _fold_multiplier(1 / fan_in, 1.0, 1 / fan_in, multiplier)
    fan_out = shape[param.fan_out] / base_shape[param.fan_out]
    return _fold_multiplier(1 / fan_in, fan_out, fan_in**-0.5 * min(1.0, (fan_out / fan_in) ** 0.5), multiplier)


def _fold_multiplier(lr: float, num_outputs: float, rms: float | None, multiplier: float) -> ParamScale:
    """Return the scale of a parameter with a multiplier; gradients are as small as outputs are many, and so is eps."""
    return ParamScale(lr * multiplier, 1 / (num_outputs * multiplier), None if rms is None else rms * multiplier)


def _by_depth(train: TrainConfig, model: nn.Module, scales: Mapping[str, ParamScale]) -> dict[str, ParamScale]:
    depth = depth_ratio(train, model)
    in_blocks = {id(p) for block in iter_blocks(model) for p in block.parameters()}
    last = {
        id(p) for module in iter_branches(model) if not hasattr(module, "shrink_branch") for p in branch_params(module)
    }
    scaled = dict(scales)
    for name, parameter in model.named_parameters():
        scaled[name] = scaled[name].in_block(depth) if id(parameter) in in_blocks else scaled[name]
        scaled[name] = scaled[name].times(1 / depth) if id(parameter) in last else scaled[name]
    return scaled


def depth_ratio(train: TrainConfig, model: nn.Module) -> float:
    """Return how many times as many blocks a model has as its base."""
    num_blocks = len(list(iter_blocks(model)))
    if not num_blocks:
        raise ConfigError(PATH, "the model has no blocks whose number completep could scale with: use mup")
    return num_blocks / (train.base_depth or num_blocks)


def iter_branches(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules whose outputs the blocks add to their inputs; raise ConfigError if they cannot be scaled."""
    for block in iter_blocks(model):
        if not hasattr(block, "branches"):
            problem = "has no `branches`, the modules whose outputs it adds to its input, which completep scales"
            raise ConfigError(PATH, f"{type(block).__name__} {problem}")
        yield from branches_of(block)


def branches_of(block: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules whose outputs a block adds to its input; raise ConfigError if they cannot be scaled."""
    yield from (branch for module in block.branches for branch in _innermost(module))  # type: ignore[union-attr]


def _innermost(module: nn.Module) -> Iterator[nn.Module]:
    if not hasattr(module, "shrink_branch") and hasattr(module, "branches"):
        yield from (branch for part in module.branches for branch in _innermost(part))  # type: ignore[union-attr]
        return
    has_params = next(module.parameters(), None) is not None
    if has_params and not hasattr(module, "shrink_branch") and next(branch_params(module), None) is None:
        problem = "declares no parameter with branch=True that its output is proportional to, nor `shrink_branch`"
        raise ConfigError(PATH, f"{type(module).__name__} {problem}")
    yield module


def _check_base(model: nn.Module, base: nn.Module) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    base_shapes = {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}
    if odd := sorted(shapes.keys() ^ base_shapes.keys()):
        where = "the base has no" if odd[0] in shapes else "only the base has a"
        advice = "it differs in sizes alone, and in depth by train.base_depth"
        raise ConfigError("train.base_model", f"{where} parameter {odd[0]!r}: {advice}")
    for name, shape in shapes.items():
        if len(shape) != len(base_shapes[name]):
            raise ConfigError(
                "train.base_model", f"{name!r} is {list(shape)}, and {list(base_shapes[name])} in the base"
            )


def _check_output(model: nn.Module, declared: Mapping[str, DeclaredParam]) -> None:
    weights = {id(weight) for weight in output_weights(model)}
    for name in (name for name, parameter in model.named_parameters() if id(parameter) in weights):
        if declared[name].param.role != "output":
            problem = f"is {name!r}, whose role is {declared[name].param.role}: no one scale serves both ends"
            raise ConfigError(PATH, f"the head's matrix {problem}; use a head that is not tied")
