"""The work of one device: traces of a training step at any number of sequences, interpolated from two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property
from typing import Any

from torch import nn

from archlab.config.experiment import Experiment
from archlab.errors import ConfigError
from archlab.modeling.block_memory import StepMemory
from archlab.modeling.step_trace import OpCost, StepTrace
from archlab.modeling.trace_cache import Step, find_memory, find_state, find_trace, step_of
from archlab.parallel.division import plan_division
from archlab.parallel.tensor import build_part

# Figures of a model per token, for any number of sequences.
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
        """Return the trace of the given number of sequences; at 0, the part independent of them, such as casts.

        Raises ConfigError for a model that `tensor` devices do not divide.
        """
        return self._part(tensor).at(sequences)

    def state_bytes(self, share: float) -> int:
        """Return the bytes of one stream's state after a share of the context: of attention, it grows with that."""
        return self._traces[1].state_bytes(share)

    def memory_at(self, sequences: float, tensor: int = 1) -> StepMemory:
        """Return the memory of the given number of sequences by block, for a device that gathers blocks one by one."""
        return self._part(tensor).memory_at(sequences)

    def divides(self, tensor: int) -> bool:
        """Return whether so many devices may divide the model along the axis `tensor`."""
        try:
            return tensor == 1 or bool(plan_division(self._model, tensor).axes)
        except ConfigError:
            return False

    def _part(self, tensor: int) -> _Traces:
        if tensor not in self._traces:
            part = build_part(self._experiment.model, tensor)
            self._traces[tensor] = _Traces(self._experiment, part, tensor)
        return self._traces[tensor]


class _Traces:
    """Traces of one model at any number of sequences, in which all costs of a step are linear.

    Each is made when it is asked for: an experiment may need but one of them.
    """

    def __init__(self, experiment: Experiment, model: nn.Module, tensor: int = 1) -> None:
        self._experiment, self._model, self._tensor = experiment, model, tensor
        self.sequences = experiment.train.batch_size

    def _step(self, sequences: int, context: int | None = None) -> Step:
        train = self._experiment.train
        sized = replace(train, batch_size=sequences, context=context or train.context)
        return step_of(replace(self._experiment, train=sized), self._model, self._tensor)

    @cached_property
    def trace(self) -> StepTrace:
        """The trace of the experiment's number of sequences."""
        return find_trace(self._step(self.sequences))

    @cached_property
    def _other(self) -> tuple[int, StepTrace]:
        """The trace of another number of sequences."""
        sequences = 1 if self.sequences > 1 else 2
        return sequences, find_trace(self._step(sequences))

    @cached_property
    def _half(self) -> int:
        """The bytes of one stream's state after half of the context."""
        return find_state(self._step(1, max(1, self._experiment.train.context // 2)))

    def state_bytes(self, share: float) -> int:
        """Return the bytes of one stream's state after a share of the context."""
        whole, half = self.trace.state_bytes, self._half
        return max(0, round(whole + (whole - half) * 2 * (share - 1)))

    @cached_property
    def _one(self) -> StepMemory:
        """The memory of one sequence, block by block."""
        return find_memory(self._step(1))

    @cached_property
    def _two(self) -> StepMemory:
        """The memory of two sequences, block by block."""
        return find_memory(self._step(2))

    def memory_at(self, sequences: float) -> StepMemory:
        """Return the memory of the given number of sequences by block."""
        if sequences == 1:
            return self._one
        return _memory_between(self._one, self._two, lambda a, b: max(0, round(a + (b - a) * (sequences - 1))))

    def at(self, sequences: float) -> StepTrace:
        """Return the trace of the given number of sequences."""
        if sequences == self.sequences:
            return self.trace
        known, other = self._other
        if sequences == known:
            return other
        weight = (sequences - self.sequences) / (known - self.sequences)
        return _interpolate(self.trace, other, lambda a, b: max(0, round(a + (b - a) * weight)))


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
