"""The work of one device: traces of a training step at any number of sequences, interpolated from two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

from torch import nn

from archlab.config.experiment import Experiment
from archlab.errors import ConfigError
from archlab.modeling.block_memory import StepMemory, trace_memory
from archlab.modeling.step_trace import OpCost, StepTrace, trace_step
from archlab.parallel.division import plan_division
from archlab.parallel.tensor import build_part

# What a model is or does per token, whatever the number of sequences.
_CONSTANT = (
    "params_by_part",
    "params",
    "params_non_embedding",
    "params_active",
    "flops_per_token",
    "flops_per_token_forward",
)
_FIGURES = ("calls", "flops", "bytes", "skipped_flops")


class Workload:
    """Traces of an experiment's micro-batch on one device, or of its part on each of those that divide the model."""

    def __init__(self, experiment: Experiment, model: nn.Module) -> None:
        self._experiment, self._model = experiment, model
        self._traces = {1: _Traces(experiment, model)}

    @property
    def trace(self) -> StepTrace:
        """The trace of the experiment on one device."""
        return self._traces[1].trace

    def at(self, sequences: float, tensor: int = 1) -> StepTrace:
        """Return the trace of so many sequences; at 0, what does not depend on them, such as casts of weights.

        Raises ConfigError for a model that `tensor` devices do not divide.
        """
        if tensor not in self._traces:
            self._traces[tensor] = _Traces(self._experiment, build_part(self._experiment.model, tensor))
        return self._traces[tensor].at(sequences)

    def state_bytes(self, share: float) -> int:
        """Return the bytes of one stream's state after a share of the context: of attention, it grows with that."""
        return self._traces[1].state_bytes(share)

    def memory_at(self, sequences: float, tensor: int = 1) -> StepMemory:
        """Return the memory of so many sequences by block, for a device that has the blocks whole one by one."""
        self.at(0, tensor)
        return self._traces[tensor].memory_at(sequences)

    def divides(self, tensor: int) -> bool:
        """Return whether so many devices may divide the model along the axis `tensor`."""
        try:
            return tensor == 1 or bool(plan_division(self._model, tensor).axes)
        except ConfigError:
            return False


class _Traces:
    """Traces of one model at any number of sequences, in which all costs of a step are linear."""

    def __init__(self, experiment: Experiment, model: nn.Module) -> None:
        self._experiment, self._model = experiment, model
        self.sequences = experiment.train.batch_size
        self.trace = _trace(experiment, model, self.sequences)

    @cached_property
    def _other(self) -> tuple[int, StepTrace]:
        """The trace of another number of sequences, made when it is needed: a single device needs none."""
        sequences = 1 if self.sequences > 1 else 2
        return sequences, _trace(self._experiment, self._model, sequences)

    @cached_property
    def _half(self) -> StepTrace:
        """The trace of one sequence of half the context, made when it is needed."""
        train = replace(self._experiment.train, context=max(1, self._experiment.train.context // 2))
        return _trace(replace(self._experiment, train=train), self._model, 1)

    def state_bytes(self, share: float) -> int:
        """Return the bytes of one stream's state after a share of the context."""
        whole, half = self.trace.state_bytes, self._half.state_bytes
        return max(0, round(whole + (whole - half) * 2 * (share - 1)))

    @cached_property
    def _memories(self) -> tuple[StepMemory, StepMemory]:
        """The memory of one sequence and of two, block by block, made when it is needed."""
        one, two = (_of_sequences(self._experiment, sequences) for sequences in (1, 2))
        return trace_memory(one, self._model), trace_memory(two, self._model)

    def memory_at(self, sequences: float) -> StepMemory:
        """Return the memory of so many sequences by block."""
        one, two = self._memories
        return _memory_between(one, two, lambda a, b: max(0, round(a + (b - a) * (sequences - 1))))

    def at(self, sequences: float) -> StepTrace:
        """Return the trace of so many sequences."""
        if sequences == self.sequences:
            return self.trace
        known, other = self._other
        weight = (sequences - self.sequences) / (known - self.sequences)
        return _interpolate(self.trace, other, lambda a, b: max(0, round(a + (b - a) * weight)))


def _trace(experiment: Experiment, model: nn.Module, sequences: int) -> StepTrace:
    return trace_step(_of_sequences(experiment, sequences), model)


def _of_sequences(experiment: Experiment, sequences: int) -> Experiment:
    return replace(experiment, train=replace(experiment.train, batch_size=sequences))


def _memory_between(one: StepMemory, two: StepMemory, between: Callable[[int, int], int]) -> StepMemory:
    blocks = tuple(
        replace(a, forward=between(a.forward, b.forward), backward=between(a.backward, b.backward))
        for a, b in zip(one.blocks, two.blocks, strict=True)
    )
    return StepMemory(blocks, between(one.ends, two.ends), one.end_bytes, between(one.saved, two.saved))


def _interpolate(one: StepTrace, two: StepTrace, between: Callable[[int, int], int]) -> StepTrace:
    values: dict[str, Any] = {}
    for field in fields(StepTrace):
        if field.name not in ("ops", *_CONSTANT):
            values[field.name] = between(getattr(one, field.name), getattr(two, field.name))
    return replace(one, ops=_ops_between(one, two, between), **values)


def _ops_between(one: StepTrace, two: StepTrace, between: Callable[[int, int], int]) -> tuple[OpCost, ...]:
    others = {(op.name, op.phase, op.dtype): op for op in two.ops}
    ops = []
    for op in one.ops:
        other = others.get((op.name, op.phase, op.dtype), op)
        figures: dict[str, Any] = {name: between(getattr(op, name), getattr(other, name)) for name in _FIGURES}
        ops.append(replace(op, **figures))
    return tuple(ops)
