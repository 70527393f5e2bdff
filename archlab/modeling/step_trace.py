"""One training step traced without memory: its FLOPs, traffic and live bytes, for any model and any component."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archlab.config.experiment import Experiment
from archlab.config.registry import component_of
from archlab.config.train_config import TrainConfig
from archlab.data.task import Task
from archlab.errors import ConfigError, one_line
from archlab.modeling.activation_checkpointing import trace_activation_checkpointing
from archlab.modeling.backbone import is_per_sample, iter_blocks, iter_calls
from archlab.modeling.build import validate
from archlab.modeling.fake_model import on_fake_cpu
from archlab.modeling.loss import training_losses
from archlab.modeling.optimizer import optimizer_bytes, update_flops, update_rule
from archlab.modeling.repeated_blocks import restore_forward, skip_repeated_blocks
from archlab.modeling.repeated_costs import RepeatedBlocks
from archlab.modeling.state import State, auxiliary_loss, init_state, reserve_state, state_bytes
from archlab.modeling.step_recorder import PHASES, OpCost, StepRecorder
from archlab.ops.dispatch import use_backends
from archlab.ops.traced_backends import traced_backends

ENDS = ("embedding", "head")  # the kinds of component that params_non_embedding leaves out
_WRAPPERS = ("backbone", "layer")  # kinds whose parts are traced separately


@dataclass(frozen=True)
class StepTrace:
    """One micro-batch and one optimizer update, under the experiment's precision and activation checkpointing.

    Bytes are those of tensors: `peak_bytes` is the most that is alive at once, weights, gradients, moments and
    all temporary tensors included, `activation_bytes` those that the forward pass saves for the backward pass,
    `largest_block_bytes` the weights of the largest block, and `called_bytes` those of the model, a block's for each of
    its calls. `params_by_part` sums to `params`, of which a token uses
    `params_active`. `flops_per_token` is
    forward and backward; those of recomputation are `recomputed_flops_per_token`. `tokens` are those of the
    micro-batch.
    """

    ops: tuple[OpCost, ...]
    params_by_part: Mapping[str, int]
    params: int
    params_non_embedding: int
    params_active: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    largest_block_bytes: int
    called_bytes: int
    peak_bytes: int
    tokens: int
    flops_per_token: int
    flops_per_token_forward: int
    recomputed_flops_per_token: int
    state_bytes: int
    max_state_bytes: int


def trace_step(experiment: Experiment, model: nn.Module | None = None) -> StepTrace:
    """Trace a training step without allocating memory; `model` is that of `validate`, if already built.

    The precision `auto` is traced as float32, and the device `auto` as a CPU. Archlab's kernels are taken to be there,
    whether or not this machine can build them, so that the same experiment has the same figures everywhere.
    Raises ConfigError if model, task and context do not fit, or if a tensor's size overflows.
    """
    model = model if model is not None else validate(experiment)
    with _check_sizes(experiment):
        return _trace(experiment, model)


def trace_state(experiment: Experiment, model: nn.Module) -> int:
    """Return the bytes of the micro-batch's state after the context, for which a forward pass is enough.

    Raises ConfigError as `trace_step` does.
    """
    train = experiment.train
    with (
        _check_sizes(experiment),
        use_backends(traced_backends(train.device)),
        on_fake_cpu(model),
        torch.no_grad(),
    ):
        batch = example_batch(experiment.task.factory()(), model, train)
        with skip_repeated_blocks(model):
            _, state = step_loss(model, *batch, train.precision)
        return state_bytes(state)


@contextmanager
def _check_sizes(experiment: Experiment) -> Iterator[None]:
    """Raise ConfigError for torch's errors about impossible sizes."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        train = experiment.train
        problem = f"a step of {train.batch_size} x {train.context} tokens cannot be counted: {one_line(error)}"
        raise ConfigError("train.context", problem, experiment.source) from error


def _trace(experiment: Experiment, model: nn.Module) -> StepTrace:
    train, weights = experiment.train, list(model.parameters())
    trained = [parameter for parameter in weights if parameter.requires_grad]
    moments = optimizer_bytes(train, model)
    recorder, stream_bytes, activations = _record_step(experiment, model, moments)
    _record_update(recorder, num_bytes(trained), moments, update_flops(train, model), train)
    ops, tokens = recorder.ops(), train.batch_size * train.context
    flops = {phase: sum(op.flops for op in ops if op.phase == phase) for phase in PHASES}
    both = flops["forward"] + flops["backward"]
    parts, idle = _params_by_part(model), sum(getattr(module, "idle_params", 0) for module in model.modules())
    return StepTrace(
        ops=ops,
        params_by_part=parts,
        params=sum(parts.values()),
        params_non_embedding=sum(parts.values()) - _end_params(model),
        params_active=sum(parts.values()) - idle,
        weight_bytes=num_bytes(weights),
        gradient_bytes=num_bytes(trained),
        optimizer_bytes=moments,
        activation_bytes=activations,
        largest_block_bytes=max((num_bytes(block.parameters()) for block in iter_blocks(model)), default=0),
        called_bytes=num_bytes(weights) + _called_again(model),
        peak_bytes=recorder.peak,
        tokens=tokens,
        flops_per_token=both // tokens,
        flops_per_token_forward=(flops["forward"] - recorder.backward_flops_ahead) // tokens,
        recomputed_flops_per_token=flops["recompute"] // tokens,
        state_bytes=stream_bytes,
        max_state_bytes=state_bytes(reserve_state(model, init_state(model, 1))),
    )


def _record_step(experiment: Experiment, model: nn.Module, moments: int) -> tuple[StepRecorder, int, int]:
    """Return a recorder of both passes, the bytes of a stream's state after them, and those alive between them."""
    train, recorder = experiment.train, StepRecorder()
    with training_context(model, train, recorder) as tensors:
        trained = [tensor for tensor in tensors if tensor.requires_grad]
        recorder.grow(moments)
        if train.accumulate > 1:  # the gradients of the micro-batches before it
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
                recorder.follow(parameter.grad)
        resident = recorder.live
        batch = example_batch(experiment.task.factory()(), model, train)
        repeated = RepeatedBlocks(recorder)
        with recorder, skip_repeated_blocks(model, repeated.add):
            recorder.follow(list(batch))
            loss, state = step_loss(model, *batch, train.precision)
            stream_bytes = state_bytes(state) // train.batch_size
            del state  # as in training, where it does not outlive the loss
            repeated.end_forward()
            activations = recorder.live - resident
            recorder.phase = "backward"
            loss.backward()
    return recorder, stream_bytes, activations


@contextmanager
def training_context(model: nn.Module, train: TrainConfig, recorder: StepRecorder) -> Iterator[list[Tensor]]:
    """Compute in a block as a training step does, without values; yield the model's tensors, which are followed."""
    blocks = list(iter_blocks(model))
    with use_backends(traced_backends(train.device)), restore_forward(blocks), on_fake_cpu(model) as tensors:
        if train.checkpoint_activations:
            trace_activation_checkpointing(model, train.checkpoint_activations, recorder.recomputing)
        recorder.follow(tensors)
        yield tensors


def example_batch(task: Task, model: nn.Module, train: TrainConfig) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a micro-batch in their shapes and types, for counting costs."""
    inputs = task.example_inputs(train.batch_size, train.context, "cpu")
    shape = inputs.shape[:1] if is_per_sample(model) else inputs.shape[:2]
    return inputs, inputs.new_zeros(shape, dtype=torch.int64)


def step_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, precision: str, *, keeps_casts: bool = True
) -> tuple[Tensor, State]:
    """Return the loss of a micro-batch and the last state; `keeps_casts` has autocast keep its copies of weights."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=keeps_casts):
        total, further, state = training_losses(model, inputs, targets)
    # As a training step weights them: means over targets and tokens.
    return (total + further) / targets.numel() + auxiliary_loss(state).sum() / targets.numel(), state


def _record_update(recorder: StepRecorder, size: int, moments: int, flops: int, train: TrainConfig) -> None:
    """Count clipping and the optimizer by their reads and writes: fused, they compute in place."""
    recorder.phase = "optimizer"
    if train.clip is not None:
        recorder.count("clip_grad_norm", torch.float32, calls=2, bytes=3 * size)
    # It reads weights, gradients and moments, and writes all but the gradients.
    recorder.count(train.optimizer_name, torch.float32, calls=1, bytes=3 * size + 2 * moments)
    if flops:
        recorder.count("matmul", update_rule(train).product_dtype, calls=1, flops=flops)


def _called_again(model: nn.Module) -> int:
    """Return the bytes of the weights of calls of blocks, but for one of each block."""
    called, once = (sum(num_bytes(block.parameters()) for block in each(model)) for each in (iter_calls, iter_blocks))
    return called - once


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _params_by_part(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each kind of part, shared ones counted in the first."""
    counts, seen = Counter[str](), set[int]()
    _count_part(model, "other", counts, seen)
    return dict(counts)


def _count_part(module: nn.Module, part: str, counts: Counter[str], seen: set[int]) -> None:
    component = component_of(type(module))
    if part == "other" and component is not None and component.kind not in _WRAPPERS:
        part = component.kind if component.kind in ENDS else f"{component.kind} {component.name}"
    for parameter in module.parameters(recurse=False):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            counts[part] += parameter.numel()
    for child in module.children():
        _count_part(child, part, counts, seen)


def _end_params(model: nn.Module) -> int:
    # A tied head shares the embedding's matrix, which is counted once.
    ends = [m for m in model.modules() if (c := component_of(type(m))) is not None and c.kind in ENDS]
    unique = {id(p): p for end in ends for p in end.parameters()}
    return sum(p.numel() for p in unique.values())
