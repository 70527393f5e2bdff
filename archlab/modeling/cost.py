"""Cost of an experiment: parameters, FLOPs and memory of a training step, traced without allocating any."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from archlab.config.experiment import Experiment
from archlab.modeling.build import validate
from archlab.modeling.trace_cache import find_trace, step_of


@dataclass(frozen=True)
class Cost:
    """Cost of an experiment: sizes in bytes, and the FLOPs of training per token at the experiment's context.

    `params_active` are the parameters that a token uses: those of a mixture's experts that it has.
    `flops_per_token` is forward and backward, without the recomputation of activation checkpointing, and
    `flops_per_token_forward` the forward pass alone. `state_bytes` is the size of one stream's state after the
    experiment's context, `max_state_bytes` its bound at any length, which compiled decoders may reserve.
    `activation_bytes` are those that the forward pass of a micro-batch saves for the backward pass, and
    `memory_per_device` the most that a training step's tensors take at once: weights, gradients, the optimizer's
    moments, which are `optimizer_bytes`, activations and temporary tensors.
    """

    params: int
    params_non_embedding: int
    params_active: int
    flops_per_token: int
    flops_per_token_forward: int
    state_bytes: int
    max_state_bytes: int
    weight_bytes: int
    optimizer_bytes: int
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
    train = experiment.train
    model = model if model is not None else validate(experiment)
    trace = find_trace(step_of(experiment, model))
    return Cost(
        params=trace.params,
        params_non_embedding=trace.params_non_embedding,
        params_active=trace.params_active,
        flops_per_token=trace.flops_per_token,
        flops_per_token_forward=trace.flops_per_token_forward,
        state_bytes=trace.state_bytes,
        max_state_bytes=trace.max_state_bytes,
        weight_bytes=trace.weight_bytes,
        optimizer_bytes=trace.optimizer_bytes,
        activation_bytes=trace.activation_bytes,
        memory_per_device=trace.peak_bytes,
        tokens_per_step=train.batch_size * train.accumulate * train.context,
    )
