"""Checks of one call: its gradients, its graph when it is compiled, and its rounding in bfloat16."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config.registry import find
from archlab.errors import one_line
from archlab.modeling import backbone
from archlab.modeling.compile import compiled_parts
from archlab.runtime.private_apis import compile_error
from archlab.testing.component_case import (
    PRECISE,
    CheckFailed,
    ComponentCase,
    loss_of,
    require,
    require_close,
)

STEPS = (
    1e-5,
    1e-7,
)  # of finite differences: a large step is too coarse for steep functions, a small one too noisy for flat ones


def has_all_gradients(case: ComponentCase) -> None:
    """Every parameter has a finite, nonzero gradient, and an optimizer step lowers the loss."""
    model = case.build(torch.float32)
    before = loss_of(model, case.example_inputs())
    before.backward()
    for name, parameter in model.named_parameters():
        require(parameter.grad is not None and bool(parameter.grad.any()), f"{name} has no gradient")
        require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")  # type: ignore[union-attr]
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    require(bool(loss_of(model, case.example_inputs()) < before), "an optimizer step raises the loss")


def has_exact_gradients(case: ComponentCase) -> None:
    """Gradients agree with finite differences of the loss in float64, and float32 gradients with float64 ones.

    A component that stops gradients on purpose declares `exact_gradients = False`.
    """
    model = case.build()
    if not backbone.has_exact_gradients(model):
        return
    exact, in_float32 = _exact_gradients(case, model), case.build(torch.float32)
    _require_slope(case, model, exact)
    rounded = torch.autograd.grad(
        loss_of(in_float32, case.example_inputs()), list(in_float32.parameters()), materialize_grads=True
    )
    for (name, _), actual, expected in zip(model.named_parameters(), rounded, exact, strict=True):
        require_close(
            actual.to(PRECISE), expected, 1e-3 * float(expected.abs().max()) + 1e-6, f"the gradient of {name}"
        )


def slopes_are_exact(case: ComponentCase) -> None:
    """The loss has the slope of its gradients in a random direction, by finite differences in float64."""
    model = case.build()
    if not backbone.has_exact_gradients(model):
        return
    _require_slope(case, model, _exact_gradients(case, model))


def _exact_gradients(case: ComponentCase, model: nn.Module) -> tuple[Tensor, ...]:
    loss = loss_of(model, case.example_inputs(dtype=PRECISE))
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


def _require_slope(case: ComponentCase, model: nn.Module, exact: tuple[Tensor, ...]) -> None:
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3), dtype=PRECISE) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(exact, directions, strict=True))
    slopes = [_finite_difference(case, model, parameters, directions, step) for step in STEPS]
    nearest = min(slopes, key=lambda estimate: float((estimate - slope).abs()))
    require_close(nearest, slope, 1e-5, "the slope of the loss")


@torch.no_grad()
def _finite_difference(
    case: ComponentCase, model: nn.Module, parameters: list[nn.Parameter], directions: list[Tensor], step: float
) -> Tensor:
    """Return the directional derivative of the loss, by fourth-order central differences."""
    losses, offset = {}, 0
    for target in (-2, -1, 1, 2):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(direction, alpha=(target - offset) * step)
        offset, losses[target] = target, loss_of(model, case.example_inputs(dtype=PRECISE))
    for parameter, direction in zip(parameters, directions, strict=True):
        parameter.sub_(direction, alpha=offset * step)
    return (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * step)


def compiles(case: ComponentCase) -> None:
    """torch.compile captures each block as one graph, with the same outputs and gradients."""
    model, inputs = case.build(), case.example_inputs(dtype=PRECISE)
    expected, expected_gradients = _run(model, inputs)
    torch.compiler.reset()  # the recompile limit counts per function, and earlier models share forward()
    for part in _parts_to_compile(case, model):
        part.compile(fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        # torch's own, about the input of a block, which is not a leaf (torch 2.13).
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
        try:
            actual, gradients = _run(model, inputs)
        except compile_error() as error:
            raise CheckFailed(f"does not compile as one graph: {one_line(error)}") from error
    require_close(actual, expected, 1e-9, "outputs when compiled")
    for name, gradient in gradients.items():
        require_close(gradient, expected_gradients[name], 1e-8, f"the gradient of {name} when compiled")


def _parts_to_compile(case: ComponentCase, model: nn.Module) -> list[nn.Module]:
    """Return the block of a run that holds the component, or all blocks if it is not inside of one.

    Identical blocks are traced once, where a model as a whole holds each of them.
    """
    parts, cls = compiled_parts(model), find(case.kind, case.name).cls
    return [part for part in parts if any(isinstance(module, cls) for module in part.modules())] or parts


def _run(model: nn.Module, inputs: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """Return the outputs, and the gradient of each parameter."""
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss_of(model, inputs), list(parameters.values()), materialize_grads=True)
    return model(inputs), dict(zip(parameters, gradients, strict=True))


@torch.no_grad()
def bfloat16_is_close(case: ComponentCase) -> None:
    """Outputs under bfloat16 autocast have a root-mean-square error below 5% relative to float32."""
    model = case.build(torch.float32)
    expected, _ = model(case.example_inputs())
    with torch.autocast("cpu", torch.bfloat16):
        actual, _ = model(case.example_inputs())
    error = float((actual.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    require(error < 0.05, f"outputs in bfloat16 are {error:.1%} off")
