"""The memory of a training step block by block, where each block's weights and gradients are whole while it computes.

So it is under FSDP, which divides a block's gradients at the end of its backward pass. Traced without memory, as
`step_trace` is, whose trace has the gradients of all blocks in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from archlab.config.experiment import Experiment
from archlab.modeling.backbone import iter_blocks
from archlab.modeling.repeated_blocks import first_output, restore_forward, skip_repeated_blocks
from archlab.modeling.repeated_costs import RepeatedBlocks
from archlab.modeling.step_recorder import StepRecorder
from archlab.modeling.step_trace import example_batch, num_bytes, step_loss, training_context


@dataclass(frozen=True)
class BlockMemory:
    """Bytes of a block's weights, and the most that are alive in a call's passes but for weights and divided gradients.

    Its own gradients are among those of its backward pass. Of several calls of a block the last alone `is_last`.
    """

    weight_bytes: int
    forward: int
    backward: int
    is_last: bool = True


@dataclass(frozen=True)
class StepMemory:
    """The memory of a micro-batch but for weights, divided gradients and moments.

    `blocks` in order of their calls, `ends` the most that is alive outside of them, `end_bytes` the weights there,
    and `saved` the bytes that the forward pass saves for the backward pass.
    """

    blocks: tuple[BlockMemory, ...]
    ends: int
    end_bytes: int
    saved: int

    @property
    def block_bytes(self) -> int:
        """The bytes of the blocks' weights."""
        return sum(block.weight_bytes for block in self.blocks if block.is_last)


def trace_memory(experiment: Experiment, model: nn.Module) -> StepMemory:
    """Trace the memory of a micro-batch of the experiment; `model` is that of `validate`, or a part of it."""
    recorder, blocks = StepRecorder(), list(iter_blocks(model))
    watch, train = _Watch(recorder), experiment.train
    with training_context(model, train, recorder):
        resident, batch = recorder.live, example_batch(experiment.task.factory()(), model, train)
        repeated = RepeatedBlocks(recorder)
        with watch.inside(blocks), recorder, skip_repeated_blocks(model, repeated.add):
            watch.around(blocks)
            recorder.follow(list(batch))
            # A divided model's weights in bfloat16 are cast again for each operation: see TrainStep.
            loss, state = step_loss(model, *batch, train.precision, keeps_casts=False)
            del state
            repeated.end_forward()
            saved = recorder.live - resident
            loss.backward()
            watch.close()
    for parameter in model.parameters():
        parameter.grad = None
    last = {id(entry.block): entry for entry in watch.entries}
    calls = tuple(
        BlockMemory(e.weight_bytes, e.forward - resident, e.backward - resident, e is last[id(e.block)])
        for e in watch.entries
    )
    memory = StepMemory(calls, ends=watch.ends - resident, end_bytes=0, saved=saved)
    return replace(memory, end_bytes=num_bytes(model.parameters()) - memory.block_bytes)


@dataclass
class _Entry:
    """One block of a pass: the most bytes alive in it, and how many blocks after it are counted like it."""

    block: nn.Module
    weight_bytes: int
    forward: int = 0
    backward: int = 0
    followers: int = 0
    begin: int = 0


class _Watch:
    """Follows a pass through the blocks by the gradients of their inputs and outputs."""

    def __init__(self, recorder: StepRecorder) -> None:
        self.recorder, self.entries, self.ends = recorder, list[_Entry](), 0
        self._open: _Entry | None = None
        self._executed: _Entry | None = None  # of the call in progress, if it is not a repetition
        self._first: _Entry  # the latest block that was executed, which those after it may repeat

    @contextmanager
    def inside(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        """See which blocks are executed, and where their backward passes begin."""
        with restore_forward(blocks):
            for block in blocks:
                block.forward = partial(self._execute, block, block.forward)
            yield

    def around(self, blocks: Sequence[nn.Module]) -> None:
        """See all calls of blocks, repeated ones too."""
        for block in blocks:
            block.forward = partial(self._call, block, block.forward)

    def _execute(self, block: nn.Module, forward: Any, x: Tensor, *inputs: Any, **named: Any) -> Any:
        self._executed = entry = _Entry(block, num_bytes(block.parameters()))
        output = forward(x, *inputs, **named)
        y = first_output(output)
        if y.requires_grad:
            # First of its hooks: those of repeated blocks find the gradients of the block after this one divided.
            y.register_hook(lambda _: self._begin(entry))
        return output

    def _call(self, block: nn.Module, forward: Any, x: Tensor, *inputs: Any, **named: Any) -> Any:
        self.ends, before, self._executed = max(self.ends, self.recorder.take_mark()), self.recorder.live, None
        own: list[_Entry] = []  # known once it has run
        # Before the hooks of repeated blocks, as below; the block before this one may have set it by then, and ended
        # it.
        handle = x.register_hook(lambda _: self._end(own[0])) if x.requires_grad else None
        output = forward(x, *inputs, **named)
        if self._executed is not None:
            self._first = self._executed
            self._first.forward = self.recorder.take_mark()
            self.entries.append(self._first)
            own.append(self._first)
            return output
        if handle is not None:
            handle.remove()
        self._repeat(block, self.recorder.live - before)
        return output

    def _repeat(self, block: nn.Module, growth: int) -> None:
        last = self.entries[-1]
        self.entries.append(_Entry(block, last.weight_bytes, last.forward + growth))
        self._first.followers += 1
        self.recorder.take_mark()

    def _begin(self, entry: _Entry) -> None:
        if self._open is not None:
            self._end(self._open)
        else:
            self.ends = max(self.ends, self.recorder.take_mark())
        self._open, entry.begin = entry, self.recorder.live

    def _end(self, entry: _Entry) -> None:
        if entry is not self._open:
            return
        self._open, top = None, self.recorder.take_mark()
        for parameter in entry.block.parameters():
            parameter.grad = None
        growth = self.recorder.live - entry.begin
        index = next(index for index, other in enumerate(self.entries) if other is entry)
        for times, follower in enumerate(reversed(self.entries[index : index + entry.followers + 1])):
            follower.backward = top + times * growth
        # Those of the repeated blocks go once this has returned.
        self.recorder.take_mark(min(0, entry.followers * growth))

    def close(self) -> None:
        """End the pass of the last block, whose input may have no gradient."""
        if self._open is not None:
            self._end(self._open)
        self.ends = max(self.ends, self.recorder.take_mark())
