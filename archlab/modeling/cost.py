"""Cost of a model: parameters, FLOPs and memory, counted on the meta device without allocating any."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from archlab.config.experiment import Experiment
from archlab.config.registry import component_of
from archlab.errors import ConfigError, one_line
from archlab.modeling.backbone import iter_blocks
from archlab.modeling.build import count_parameters, validate
from archlab.modeling.compile import apply_activation_checkpointing
from archlab.modeling.loss import chunked_output_weight, total_loss
from archlab.modeling.repeated_blocks import restore_forward, skip_repeated_blocks
from archlab.modeling.state import State, init_state, reserve_state, state_bytes

ENDS = ("embedding", "head")  # the kinds of component that params_non_embedding leaves out


@dataclass(frozen=True)
class Cost:
    """Cost of an experiment: sizes in bytes, and the FLOPs of a forward pass per token at the experiment's context.

    Training takes three times the FLOPs. `state_bytes` is the size of one stream's state after the experiment's
    context, `max_state_bytes` its bound at any length, which compiled decoders may reserve. `memory_per_device` is that
    of a training step: weights, gradients, AdamW's two moments, and the activations saved for the backward pass.
    """

    params: int
    params_non_embedding: int
    flops_per_token: int
    state_bytes: int
    max_state_bytes: int
    weight_bytes: int
    activation_bytes: int
    memory_per_device: int
    tokens_per_step: int

    def to_dict(self) -> dict[str, int]:
        """Return the costs by name."""
        return asdict(self)


def estimate_cost(experiment: Experiment, model: nn.Module | None = None) -> Cost:
    """Count the costs of an experiment without allocating memory; `model` is that of `validate`, if already built.

    Raises ConfigError if model, task and context do not fit, or if a tensor's size overflows.
    """
    model = model if model is not None else validate(experiment)
    try:
        return _estimate(experiment, model)
    except (RuntimeError, ValueError) as error:
        train = experiment.train
        problem = f"a step of {train.batch_size} x {train.context} tokens cannot be counted: {one_line(error)}"
        raise ConfigError("train.context", problem, experiment.source) from error


def _estimate(experiment: Experiment, model: nn.Module) -> Cost:
    train = experiment.train
    params = count_parameters(model)
    example = partial(experiment.task.factory()().example_inputs, context=train.context, device="meta")
    activations = _activation_bytes(model, example(train.batch_size), train.checkpoint_activations)
    flops, state = _forward(model, example(1))
    weights = sum(p.numel() * p.element_size() for p in _unique(model.parameters()))
    return Cost(
        params=params,
        params_non_embedding=params - _end_params(model),
        flops_per_token=flops // train.context,
        state_bytes=state_bytes(state),
        max_state_bytes=state_bytes(reserve_state(model, init_state(model, 1))),
        weight_bytes=weights,
        activation_bytes=activations,
        memory_per_device=4 * weights + activations,  # weights, gradients and two moments have the same size
        tokens_per_step=train.batch_size * train.accumulate * train.context,
    )


def _unique(parameters: Any) -> list[nn.Parameter]:
    return list({id(p): p for p in parameters}.values())


def _end_params(model: nn.Module) -> int:
    # A tied head shares the embedding's matrix, which is counted once.
    ends = [m for m in model.modules() if (c := component_of(type(m))) is not None and c.kind in ENDS]
    return sum(p.numel() for p in _unique(p for end in ends for p in end.parameters()))


def _forward(model: nn.Module, inputs: Tensor) -> tuple[int, State]:
    """Return the FLOPs of a call, and the state after it."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        with skip_repeated_blocks(model, counter.get_total_flops) as skipped:
            _, state = model(inputs)
        return counter.get_total_flops() + sum(skipped), state


def _activation_bytes(model: nn.Module, inputs: Tensor, checkpointed: bool) -> int:
    whole = _saved_bytes(model, inputs)
    blocks = list(iter_blocks(model))
    if not checkpointed or not blocks:
        return whole
    with restore_forward(blocks):
        apply_activation_checkpointing(model)
        kept = _saved_bytes(model, inputs)
    return kept + (whole - kept) // len(blocks)  # the backward pass recomputes one block at a time


def _saved_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Return the bytes that autograd saves for the backward pass of one micro-batch, those of the loss included."""
    # torch gives all tensors of one storage the same Python object, so that its id tells storages apart, also on the
    # meta device, where every data pointer is 0. `saved` keeps the objects alive: an id may be used again otherwise.
    parameters = {id(p.untyped_storage()) for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def num_bytes() -> int:
        return sum(storage.nbytes() for storage in saved.values())

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in parameters:
            saved[id(storage)] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        skip_repeated_blocks(model, num_bytes) as skipped,
    ):
        _loss_of(model, inputs)
    return num_bytes() + sum(skipped)


def _loss_of(model: nn.Module, inputs: Tensor) -> None:
    """Run the forward pass of a loss that saves as much as that of training does."""
    num_targets = inputs.shape[:2].numel()
    if chunked_output_weight(model, num_targets) is None:
        logits, _ = model(inputs)
        logits.float().log_softmax(-1)
    else:
        total_loss(model, inputs, inputs.new_zeros(inputs.shape[:2], dtype=torch.int64))
