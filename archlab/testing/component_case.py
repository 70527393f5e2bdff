"""A component under test, in a small model that is built around it.

B batch, T time, V outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config.spec import Spec, parse
from archlab.errors import ArchlabError, ConfigError
from archlab.modeling.build import build, build_on_meta, is_causal
from archlab.modeling.state import auxiliary_loss, max_context

PLACEHOLDER = "HERE"
BATCH, TOKENS, WORDS = 2, 13, 17
IGNORED = -100
PRECISE = torch.float64


@dataclass(frozen=True)
class ComponentCase:
    """A component with its knobs; `inputs` are what the model reads where that is not words."""

    kind: str
    name: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    inputs: Tensor | None = None

    def __str__(self) -> str:
        knobs = ", ".join(f"{key}={value}" for key, value in self.knobs.items())
        return f"{self.kind} {self.name}" + (f" with {knobs}" if knobs else "")

    def spec(self) -> Spec:
        """Return the checked description of the model; raise ConfigError where the component fits no host."""
        problem = ConfigError("", f"no model is known to test a {self.kind} in")
        for host in reference_models().get(self.kind, []):
            try:
                spec = parse(_filled(host, {"type": self.name} | dict(self.knobs)), "backbone", "model")
                _require_room(build_on_meta(spec))
            except ConfigError as error:
                problem = error
            else:
                return spec
        raise problem

    def with_knobs(self, **knobs: Any) -> ComponentCase:
        """Return the component with other values of some knobs."""
        return ComponentCase(self.kind, self.name, dict(self.knobs) | knobs, self.inputs)

    def build(self, dtype: torch.dtype = PRECISE) -> nn.Module:
        """Return the model in evaluation mode, its parameters moved a little, so that none is without effect."""
        model = build(self.spec()).to(dtype).eval()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=PRECISE)
                parameter.add_(noise.to(dtype), alpha=0.05)
        return model

    def read(self, num_tokens: int = TOKENS) -> Tensor:
        """Return what the model reads: made-up words, unless inputs were given."""
        if self.inputs is not None:
            return self.inputs
        return torch.randint(WORDS, (BATCH, num_tokens), generator=torch.Generator().manual_seed(1))


@cache
def reference_models() -> dict[str, list[Any]]:
    """Return the models to test a component of each kind in."""
    found: dict[str, list[Any]] = yaml.safe_load((Path(__file__).parent / "reference_models.yaml").read_text())
    return found


def _filled(host: Any, component: dict[str, Any]) -> Any:
    if host == PLACEHOLDER:
        return copy.deepcopy(component)
    if isinstance(host, dict):
        return {key: _filled(value, component) for key, value in host.items()}
    return [_filled(value, component) for value in host] if isinstance(host, list) else host


def _require_room(model: nn.Module) -> None:
    limit = max_context(model)
    if limit is not None and limit < TOKENS:
        raise ConfigError("window_size", f"{limit} is less than the {TOKENS} tokens that components are tested on")


def is_stream(subject: ComponentCase, model: nn.Module) -> bool:
    """Tell whether a model answers at every step from what came before, so that its time can be cut."""
    return subject.inputs is None and is_causal(model) and not getattr(model, "per_sample", False)


def loss_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return a loss that every part of a model takes part in: predicting the next word, or telling samples apart."""
    logits, state = model(inputs)
    scores = logits.flatten(0, -2)
    targets = torch.arange(len(scores), device=scores.device) * 7 % scores.shape[-1]
    return F.cross_entropy(scores, targets) + auxiliary_loss(state).mean()


class CheckFailed(ArchlabError):
    """A component does not keep a promise."""


def require(holds: bool, problem: str) -> None:
    """Raise Failed unless a promise holds."""
    if not holds:
        raise CheckFailed(problem)


def require_close(found: Any, expected: Any, tolerance: float, what: str) -> None:
    """Raise Failed where tensors, or mappings of them, differ by more than a tolerance."""
    try:
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    except AssertionError as error:
        raise CheckFailed(f"{what}: {' '.join(str(error).split())}") from None
