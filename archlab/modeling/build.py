"""Build and validate models: from a checked spec to an nn.Module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from archlab.config.experiment import Experiment
from archlab.config.spec import Spec
from archlab.data.task import Task
from archlab.errors import ConfigError
from archlab.modeling.backbone import is_causal, is_per_sample, num_outputs
from archlab.modeling.optimizer import optimizer_bytes
from archlab.modeling.param_groups import group_params
from archlab.modeling.param_roles import PATH
from archlab.modeling.param_scales import base_spec, param_scales
from archlab.modeling.separate_documents import require_separable
from archlab.modeling.state import max_context
from archlab.ops.gpu_attention import register_gpu_attention
from archlab.ops.grouped_linear import register_grouped_backends
from archlab.ops.native import register_native_backends
from archlab.ops.rotary import register_opaque_ops
from archlab.ops.slstm import register_slstm_backends
from archlab.ops.triton import register_triton_backends
from archlab.ops.visited_blocks import register_block_backends
from archlab.runtime.matmul_precision import select_matmul_precision
from archlab.runtime.vector_math import warm_up_vector_math

_DRAWS = (nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, torch.Tensor.normal_, torch.Tensor.uniform_)


def build(spec: Spec, device: str | torch.device = "cpu", seed: int = 0) -> nn.Module:
    """Build the model of a spec with parameters drawn from `seed`; the caller's random state is unchanged.

    The spec is stored as `model.spec`.
    """
    configure_backends()
    _import_components(spec)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model: nn.Module = spec.factory()()
    model.spec = spec  # type: ignore[assignment]
    return model


def configure_backends() -> None:
    """Configure this process for computing: matmul precision, native and Triton kernels; once, whatever is built.

    `build` calls this for every model that computes. A model on the meta device has no values to compute: there the
    reference implementations give the shapes, and measuring matmul modes or compiling kernels would only take time.
    """
    # Before any thread pool computes: exp is inexact in a process's first call if that call is multithreaded.
    warm_up_vector_math()
    select_matmul_precision()
    register_slstm_backends()  # which a native one replaces
    register_native_backends()
    register_triton_backends()
    register_gpu_attention()
    register_opaque_ops()
    register_grouped_backends()
    register_block_backends()


def build_on_meta(spec: Spec) -> nn.Module:
    """Build the model of a spec on the meta device: shapes without memory, after every check of every constructor."""
    _import_components(spec)
    with torch.device("meta"), _WithoutDraws():
        return spec.factory()()


class _WithoutDraws(TorchFunctionMode):
    """Leave tensors as they are where random values would be drawn: on the meta device that takes most of a build."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the tensor of an in-place draw, and call any other function."""
        if func in _DRAWS:  # nn.init passes its tensor by name
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **kwargs or {})


def _import_components(spec: Spec) -> None:
    """Import every class of a spec: a module imported below `torch.device` would make its own tensors there."""
    for part in spec.walk():
        _ = part.component.cls


def validate(experiment: Experiment) -> nn.Module:
    """Build the experiment's model on the meta device; raise ConfigError if model, task and context do not fit."""
    try:
        return _validate(experiment)
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or experiment.source) from error


def _validate(experiment: Experiment) -> nn.Module:
    model, context = build_on_meta(experiment.model), experiment.train.context
    task: Task = experiment.task.factory()()
    _check_task(experiment, model, task)
    require_separable(experiment, model, task)
    limit = max_context(model)
    if limit is not None and context > limit:
        raise ConfigError(
            "train.context", f"{context} exceeds the {limit} tokens that full attention keeps (window_size)"
        )
    optimizer_bytes(experiment.train, model)  # which asks for every role that the optimizer goes by
    group_params(model, experiment.train)
    if experiment.train.parametrization != "standard":
        param_scales(experiment.train, model, build_base_on_meta(experiment))
    return model


def build_base_on_meta(experiment: Experiment) -> nn.Module:
    """Build the model at the base width of `train.parametrization` on the meta device."""
    spec = base_spec(experiment)
    try:
        return build_on_meta(spec)
    except ConfigError as error:
        advice = "set the base's sizes in train.base_model"
        raise ConfigError(PATH, f"no model at the base width: {error.path}: {error.problem}; {advice}") from error


def _check_task(experiment: Experiment, model: nn.Module, task: Task) -> None:
    """Raise ConfigError if the model cannot read the task's inputs, or does not return the logits it needs."""
    vocab_size, outputs = experiment.model.knobs.get("vocab_size"), num_outputs(model)
    if task.vocab_size is not None and vocab_size is not None and vocab_size < task.vocab_size:
        raise ConfigError("model.vocab_size", f"{vocab_size} is less than the {task.vocab_size} tokens of the task")
    if is_per_sample(model) != task.per_sample:
        asks = "one answer a sample: use a head like classifier" if task.per_sample else "an answer at every step"
        raise ConfigError("model.head", f"does not fit the task {experiment.task.name!r}, which asks for {asks}")
    if outputs is not None and outputs < task.num_outputs:
        raise ConfigError("model.head", f"{outputs} outputs are less than the {task.num_outputs} of the task")
    if task.predicts_next and not is_causal(model):
        raise ConfigError("model", f"sees later tokens, which the task {experiment.task.name!r} has it predict")


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Temporarily put a model in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter, the CPU without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
