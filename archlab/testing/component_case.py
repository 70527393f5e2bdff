"""A component under test, in a small model built around it.

B batch, T time, V outputs, N outputs of all samples and steps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config.spec import Spec, parse
from archlab.errors import ArchlabError, ConfigError
from archlab.modeling.backbone import get_further_targets, is_causal, is_per_sample
from archlab.modeling.build import build, build_on_meta
from archlab.modeling.loss import training_losses
from archlab.modeling.state import auxiliary_loss, max_context

PLACEHOLDER = "HERE"
BATCH, TOKENS, VOCAB_SIZE = 2, 13, 17
PRECISE = torch.float64


@dataclass(frozen=True)
class ComponentCase:
    """A component with its knobs; `inputs` are the model's inputs unless these are tokens."""

    kind: str
    name: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    inputs: Tensor | None = None

    def __str__(self) -> str:
        knobs = ", ".join(f"{key}={value}" for key, value in self.knobs.items())
        return f"{self.kind} {self.name}" + (f" with {knobs}" if knobs else "")

    def __getstate__(self) -> dict[str, Any]:
        # Without the spec: another process can read a component's class only once it has loaded the plugin.
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def spec(self) -> Spec:
        """Return the spec of the model; raise ConfigError if the component fits no reference model."""
        return self._spec

    @cached_property
    def _spec(self) -> Spec:
        """The result of `spec`, cached: it builds on the meta device, and every check uses it several times."""
        problem = ConfigError("", f"no model is known to test a {self.kind} in")
        for template in reference_models().get(self.kind, []):
            try:
                spec = parse(_fill(template, {"type": self.name} | dict(self.knobs)), "backbone", "model")
                _require_context(build_on_meta(spec))
            except ConfigError as error:
                problem = error
            else:
                return spec
        raise problem

    def with_knobs(self, **knobs: Any) -> ComponentCase:
        """Return the case with other values of some knobs."""
        return ComponentCase(self.kind, self.name, dict(self.knobs) | knobs, self.inputs)

    def build(self, dtype: torch.dtype = PRECISE) -> nn.Module:
        """Return the model in evaluation mode, with noise added so that no parameter is zero and without effect."""
        return with_noise(build(self.spec()), dtype)

    def example_inputs(self, num_tokens: int = TOKENS, dtype: torch.dtype | None = None) -> Tensor:
        """Return the case's inputs, in a dtype if they are floating-point, or random tokens [B, T] if it has none."""
        if self.inputs is not None:
            return self.inputs.to(dtype or self.inputs.dtype) if self.inputs.is_floating_point() else self.inputs
        return torch.randint(VOCAB_SIZE, (BATCH, num_tokens), generator=torch.Generator().manual_seed(1))


def with_noise(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a new model in a dtype and in evaluation mode, with noise added to its parameters."""
    model = model.to(dtype).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=PRECISE)
            parameter.add_(noise.to(dtype), alpha=0.05)
    return model


@cache
def reference_models() -> dict[str, list[Any]]:
    """Return the reference models of each kind, as YAML data with a placeholder for the component."""
    models: dict[str, list[Any]] = yaml.safe_load(
        (Path(__file__).parent / "reference_models.yaml").read_text(encoding="utf-8")
    )
    return models


def _fill(template: Any, component: dict[str, Any]) -> Any:
    if template == PLACEHOLDER:
        return copy.deepcopy(component)
    if isinstance(template, dict):
        return {key: _fill(value, component) for key, value in template.items()}
    return [_fill(value, component) for value in template] if isinstance(template, list) else template


def _require_context(model: nn.Module) -> None:
    limit = max_context(model)
    if limit is not None and limit < TOKENS:
        raise ConfigError("window_size", f"{limit} is less than the {TOKENS} tokens that components are tested on")


def is_stream(case: ComponentCase, model: nn.Module) -> bool:
    """Whether a model is causal and has an output at every step, so that a sequence can be processed in chunks."""
    return case.inputs is None and is_causal(model) and not is_per_sample(model)


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return a loss that depends on every output: cross entropy with arbitrary targets, plus the auxiliary loss.

    And, as in training, plus the losses of further tokens.
    """
    logits, state = model(inputs)
    logits_NV = logits.flatten(0, -2)
    # 7 shares no factor with the sizes of the reference models, so that every output is a target.
    targets_N = torch.arange(len(logits_NV), device=logits.device) * 7 % logits_NV.shape[-1]
    loss = F.cross_entropy(logits_NV, targets_N) + auxiliary_loss(state).mean()
    if get_further_targets(model) is None:
        return loss
    return loss + training_losses(model, inputs, targets_N.view(logits.shape[:-1]))[1] / len(targets_N)


class CheckFailed(ArchlabError):
    """A component that fails a check."""


def require(holds: bool, problem: str) -> None:
    """Raise CheckFailed unless a condition holds."""
    if not holds:
        raise CheckFailed(problem)


def require_close(actual: Any, expected: Any, tolerance: float, name: str) -> None:
    """Raise CheckFailed if tensors, or mappings of tensors, differ by more than a tolerance."""
    try:
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    except AssertionError as error:
        raise CheckFailed(f"{name}: {' '.join(str(error).split())}") from None
