"""From a checked spec to a model on a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from archlab.config.experiment import Experiment
from archlab.config.spec import Spec
from archlab.errors import ConfigError
from archlab.modeling.state import max_context
from archlab.ops.native import register_native_backends
from archlab.ops.rotary import register_opaque_ops
from archlab.ops.triton import register_triton_backends
from archlab.runtime.matmul_precision import select_matmul_precision
from archlab.runtime.vector_math import warm_up_vector_math


def build(spec: Spec, device: str | torch.device = "cpu", seed: int = 0) -> nn.Module:
    """Return the model of a spec, its parameters drawn from `seed`; the caller's random state is left alone.

    The spec is kept as the model's attribute of that name.
    """
    warm_up_vector_math()
    select_matmul_precision()
    register_native_backends()
    register_triton_backends()
    register_opaque_ops()
    _import_components(spec)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model: nn.Module = spec.factory()()
    model.spec = spec  # type: ignore[assignment]
    return model


def build_on_meta(spec: Spec) -> nn.Module:
    """Return the model with shapes and no memory: every check of every constructor has then been made."""
    _import_components(spec)
    with torch.device("meta"):
        return spec.factory()()


def _import_components(spec: Spec) -> None:
    """Import every class of a spec: a module imported below `torch.device` would make its own tensors there."""
    for part in spec.walk():
        _ = part.component.cls


def validate(experiment: Experiment) -> nn.Module:
    """Return the experiment's model on the meta device; raise ConfigError where model, task and context disagree."""
    try:
        return _validated(experiment)
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or experiment.source) from error


def _validated(experiment: Experiment) -> nn.Module:
    model, task, context = build_on_meta(experiment.model), experiment.task.factory()(), experiment.train.context
    _check_task(experiment, model, task)
    limit = max_context(model)
    if limit is not None and context > limit:
        raise ConfigError(
            "train.context", f"{context} exceeds the {limit} tokens that full attention keeps (window_size)"
        )
    return model


def _check_task(experiment: Experiment, model: nn.Module, task: Any) -> None:
    """Raise ConfigError where the model cannot read the task's inputs, or give the answers that it asks for."""
    words, outputs = experiment.model.knobs.get("vocab_size"), getattr(model, "num_outputs", None)
    if task.vocab_size is not None and words is not None and words < task.vocab_size:
        raise ConfigError("model.vocab_size", f"{words} is less than the {task.vocab_size} words of the task")
    if getattr(model, "per_sample", False) != task.per_sample:
        asks = "one answer a sample: use a head like classifier" if task.per_sample else "an answer at every step"
        raise ConfigError("model.head", f"does not fit the task {experiment.task.name!r}, which asks for {asks}")
    if outputs is not None and outputs < task.num_outputs:
        raise ConfigError("model.head", f"{outputs} outputs are less than the {task.num_outputs} of the task")
    if task.predicts_next and not is_causal(model):
        raise ConfigError("model", f"sees later tokens, which the task {experiment.task.name!r} has it predict")


def is_causal(model: nn.Module) -> bool:
    """Tell whether no part of a model looks ahead; one that does says so by `causal = False`."""
    return all(getattr(module, "causal", True) for module in model.modules())


def iter_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers that are compiled, checkpointed or sharded one by one: the backbone's `blocks`."""
    yield from getattr(model, "blocks", [])


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained values, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter, the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
