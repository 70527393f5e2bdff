"""Figures of training steps, traced once in a process for all experiments whose steps have the same."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import nn

from archlab.config.experiment import Experiment
from archlab.modeling.block_memory import StepMemory, trace_memory
from archlab.modeling.step_trace import StepTrace, trace_state, trace_step

_KEPT = 64


@dataclass(frozen=True)
class Step:
    """A step to be traced, equal to others of the same identity."""

    identity: tuple[Any, ...]
    experiment: Experiment = field(compare=False)
    model: nn.Module = field(compare=False)


def step_of(experiment: Experiment, model: nn.Module, tensor: int = 1) -> Step:
    """Return the step of an experiment; `model` is that of `validate`, or its part on each of `tensor` devices."""
    return Step((*_identity(experiment), tensor), experiment, model)


# Each takes about a second: a candidate's learning rates and seeds share one, so do a run's start and resume, and the
# plans of one model on several devices.
@lru_cache(maxsize=_KEPT)
def find_trace(step: Step) -> StepTrace:
    """Return the result of `trace_step`."""
    return trace_step(step.experiment, step.model)


@lru_cache(maxsize=_KEPT)
def find_memory(step: Step) -> StepMemory:
    """Return the result of `trace_memory`."""
    return trace_memory(step.experiment, step.model)


@lru_cache(maxsize=_KEPT)
def find_state(step: Step) -> int:
    """Return the result of `trace_state`."""
    return trace_state(step.experiment, step.model)


def _identity(experiment: Experiment) -> tuple[Any, ...]:
    """Return the settings that a step's figures depend on, without learning rate, seed and length."""
    train, spec = experiment.train, experiment.model
    inputs = experiment.task.factory()().example_inputs(1, train.context, "meta")
    sizes = (train.batch_size, train.context, train.accumulate)
    # `auto` is traced as one of the others.
    precision, device = train.precision.replace("auto", "float32"), train.device.replace("auto", "cpu")
    settings = (*sizes, device, precision, train.checkpoint_activations)
    # The classes too: a plugin may have been loaded again under its name.
    classes = tuple(part.component.cls for part in spec.walk())
    optimizer = json.dumps(train.to_plain().get("optimizer"))
    return (json.dumps(spec.to_plain()), classes, inputs.shape, inputs.dtype, *settings, train.clip is None, optimizer)
