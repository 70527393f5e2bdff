"""The coordinate check: hyperparameters transfer if no activation and no update depends on the model's size.

A model is trained for ten steps at several widths under muP, and at several depths under CompleteP. Every size of
interest is fitted by a power of the width or depth, whose exponent is 0 in the limit of large models (arXiv:2203.03466,
appendix D). A wrong role shows as an exponent near 1 or -1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from archlab.config.experiment import Experiment
from archlab.config.registry import find
from archlab.config.spec import Spec, parse
from archlab.config.train_config import TrainConfig
from archlab.config.widths import scale_widths
from archlab.errors import ConfigError
from archlab.modeling.backbone import get_features, iter_blocks
from archlab.modeling.build import build
from archlab.modeling.param_roles import declared_params
from archlab.modeling.parametrization import parametrize
from archlab.testing.component_case import ComponentCase, loss_of, require
from archlab.training.optimizer import build_optimizer

Sizes: TypeAlias = dict[str, float]
Scheme: TypeAlias = Literal["standard", "mup", "completep"]
WIDTHS, DEPTHS, STEPS = (1, 2, 4, 8), (1, 4), 10
LR = 0.01  # large enough for updates to outgrow the noise of the initial values in ten steps
# Of an exponent: initial values' share still falls at these sizes, while a wrong role gives 1 or -1 beside that.
LOWEST, HIGHEST = -0.75, 0.5
_CHANGE = "the change of the last block's output"
_OUTPUT = "the component's output"
_OF_MODEL = ("the logits", "the last block's output", "the change of the logits", _CHANGE)
_HOOKS = {"branches", "added", "shrink_branch"}  # hooks that decide how a branch is added
NEGLIGIBLE = 0.01  # of the change of the features: less is noise


def transfers(case: ComponentCase, width: Scheme = "mup", depth: Scheme = "completep") -> None:
    """Ten steps move activations equally far at four widths under mup, and at two depths under completep.

    A component that declares no roles passes: it can be trained under `standard` alone.
    """
    component, spec = find(case.kind, case.name), case.spec()
    try:
        first = _train(case, spec, spec, width)
    except ConfigError:
        if component.params:
            raise
        return
    wider = [_train(case, scale_widths(spec, Fraction(factor)), spec, width) for factor in WIDTHS[1:]]
    _require_constant([first, *wider], WIDTHS, "width")
    if any(param.branch for param in component.params.values()) or _HOOKS & set(dir(component.cls)):
        shallow = _with_repeats(spec, 1)
        deeper = [_train(case, _with_repeats(spec, repeat), shallow, depth, effects=False) for repeat in DEPTHS]
        _require_constant(deeper, DEPTHS, "depth")


def _train(case: ComponentCase, spec: Spec, base: Spec, scheme: Scheme, effects: bool = True) -> Sizes:
    """Train a model for a few steps; return the sizes of its activations and, if asked for, of its updates' effects."""
    depth = sum(entry.repeat for value in base.knobs.values() if isinstance(value, list) for entry in value)
    train = TrainConfig(parametrization=scheme, base_width=base.knobs["dim"], base_depth=depth, weight_decay=0.0)
    model, inputs = build(spec), case.example_inputs()
    experiment = Experiment("checked", "", spec, parse("stdlib", "task", "task"), train, (), "")
    optimizer = build_optimizer(model, train, parametrize(experiment, model))
    for group in optimizer.param_groups:
        group["lr"] = LR * group.get("lr_scale", 1.0)
    initial = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    before = _activations(case, model, inputs)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        optimizer.step()
    after = _activations(case, model, inputs)
    moved = {f"the change of {name}": _rms(after[name] - before[name]) for name in after if name != _OUTPUT}
    sizes = {name: _rms(value) for name, value in after.items()} | moved
    return sizes | _effects(case, model, inputs, initial) if effects else sizes


@torch.no_grad()
def _activations(case: ComponentCase, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the logits, and the outputs of the last block and of the component, where it is called as a module."""
    outputs: dict[str, Tensor] = {}
    cls = find(case.kind, case.name).cls
    *_, last = iter_blocks(model)
    named = [("the last block's output", last), *((_OUTPUT, part) for part in model.modules() if type(part) is cls)]
    hooks = [part.register_forward_hook(partial(_keep, outputs, name)) for name, part in named]
    try:
        logits = _first(model(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return {"the logits": logits, **outputs}


def _keep(outputs: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    outputs[name] = _first(output)


@torch.no_grad()
def _effects(case: ComponentCase, model: nn.Module, inputs: Tensor, initial: dict[str, Tensor]) -> Sizes:
    """Return how far the updates of each parameter of the component moved the features, or its logits if a head."""
    cls, own = find(case.kind, case.name).cls, dict[str, list[str]]()
    for name, declared in declared_params(model).items():
        if type(declared.owner) is cls:
            own.setdefault(declared.name, []).append(name)
    outputs = model if case.kind == "head" else get_features(model) or model
    trained = _first(outputs(inputs))
    values = dict(model.named_parameters())
    sizes = {}
    for own_name, names in own.items():
        now = [values[name].clone() for name in names]
        for name in names:
            values[name].copy_(initial[name])
        sizes[f"the effect of updating {own_name!r}"] = _rms(_first(outputs(inputs)) - trained)
        for name, value in zip(names, now, strict=True):
            values[name].copy_(value)
    return sizes


def _first(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def _rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


def _with_repeats(spec: Spec, repeat: int) -> Spec:
    """Return the model with each of its layers that many times, however often it has it."""
    plain = spec.to_plain()
    for value in (value for value in plain.values() if isinstance(value, list)):
        for entry in value:
            entry["repeat"] = repeat
    return parse(plain, spec.kind, spec.path)


def _require_constant(measured: Sequence[Sizes], factors: Sequence[int], of: str) -> None:
    """Raise CheckFailed if a size is not a constant as the model grows."""
    whole = max(sizes[_CHANGE] for sizes in measured)
    for name in measured[0]:
        sizes = [found[name] for found in measured]
        if of == "depth" and name not in _OF_MODEL:  # a branch is smaller by design
            continue
        if name not in _OF_MODEL and (max(sizes) < NEGLIGIBLE * whole or min(sizes) == 0):
            continue
        exponent = _exponent(sizes, factors)
        listed = ", ".join(f"{size:.3g}" for size in sizes)
        problem = f"{name} goes like {of}^{exponent:.2f}: {listed} at {', '.join(map(str, factors))} times the {of}"
        require(LOWEST < exponent < HIGHEST, problem)


def _exponent(sizes: Sequence[float], factors: Sequence[int]) -> float:
    """Return the slope of the logarithms of sizes, by least squares."""
    x, y = ([math.log(max(value, 1e-12)) for value in values] for values in (factors, sizes))
    mean = sum(x) / len(x)
    return sum((a - mean) * b for a, b in zip(x, y, strict=True)) / sum((a - mean) ** 2 for a in x)
