"""Costs of a run of identical blocks, forward and backward, from those of its second."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from archlab.modeling.step_recorder import StepRecorder


@dataclass
class _Span:
    """A section of a recording: its counts, the growth of live bytes, and their peak."""

    recorder: StepRecorder
    counts: Counter[Any] = field(init=False)
    growth: int = field(init=False)
    top: int = field(init=False)

    def __post_init__(self) -> None:
        self.counts, self.growth = self.recorder.counts.copy(), self.recorder.live
        self.recorder.top = self.recorder.live
        self.recorder.made.clear()

    def close(self) -> None:
        """End the stretch."""
        self.top = self.recorder.top
        self.counts = self.recorder.counts - self.counts

    def close_memory(self) -> None:
        """Take the growth up to now, where the next block begins."""
        self.growth = self.recorder.live - self.growth

    def repeat(self, times: int) -> None:
        """Record the stretch again."""
        self.recorder.counts.update({kind: times * number for kind, number in self.counts.items()})
        self.recorder.grow(times * self.growth)
        self.recorder.note_peak(self.top + max(0, times * self.growth))


class RepeatedBlock:
    """Measures a block's forward and backward pass, and counts others like it.

    The forward passes of the skipped blocks F3, ..., FL follow on F2, and their backward passes BL, ..., B3 precede
    B2. Each starts where the one before it has left the live bytes, so the most that is alive in any is reached in the
    first or the last of them.
    """

    def __init__(self, recorder: StepRecorder) -> None:
        self.recorder, self.times = recorder, 0
        self.forward: _Span | None = None
        self.backward: _Span | None = None
        self.left: dict[weakref.ref[torch.UntypedStorage], int] = {}

    def begin(self, x: Tensor) -> None:
        """Begin the forward pass; the gradient of its input ends the backward pass."""
        self.forward = _Span(self.recorder)
        if x.requires_grad:
            x.register_hook(self._end_backward)

    def end(self, y: Tensor) -> None:
        """End the forward pass; the gradient of its output begins the backward pass."""
        assert self.forward is not None
        self.forward.close()
        made = (storage for storage in self.recorder.made if storage is not y.untyped_storage())
        self.left = {weakref.ref(storage): storage.nbytes() for storage in made}
        if y.requires_grad:
            y.register_hook(self._begin_backward)

    def repeat(self) -> None:
        """Count another forward pass, and later another backward pass."""
        assert self.forward is not None
        if not self.times:
            # Only now: the caller has freed its references to the input while the block was running.
            self.forward.close_memory()
        self.times += 1
        self.forward.repeat(1)
        self.forward.top += self.forward.growth

    def end_forward(self) -> None:
        """Free tensors of the skipped blocks that the forward pass holds, not autograd: states, autocast's copies.

        Called where it has freed the measured block's.
        """
        freed = sum(num_bytes for storage, num_bytes in self.left.items() if storage() is None)
        self.recorder.grow(-self.times * freed)

    def _begin_backward(self, _: Tensor) -> None:
        self.backward = _Span(self.recorder)

    def _end_backward(self, _: Tensor) -> None:
        if self.backward is not None:
            self.backward.close()
            self.backward.close_memory()
            self.backward.repeat(self.times)


class RepeatedBlocks:
    """The measured blocks of all runs of identical ones in a model."""

    def __init__(self, recorder: StepRecorder) -> None:
        self.recorder, self.blocks = recorder, list[RepeatedBlock]()

    def add(self) -> RepeatedBlock:
        """Return another block to measure."""
        self.blocks.append(RepeatedBlock(self.recorder))
        return self.blocks[-1]

    def end_forward(self) -> None:
        """Free the tensors that the forward pass has freed of the measured blocks."""
        for block in self.blocks:
            block.end_forward()
