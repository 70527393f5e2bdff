"""Counting passes over runs of identical blocks: two blocks of a run are executed, the others counted like them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from archlab.modeling.backbone import iter_blocks, iter_calls

# Submodules are described one by one. A `forward` set on an instance is archlab's own: checkpointing, or a replay.
_SKIPPED_ATTRIBUTES = ("_modules", "forward")
_SCALARS = (str, int, float, complex, bytes, type(None), torch.dtype, torch.device, type)


class BlockMeter(Protocol):
    """Measures the second block of a run, by whose costs those that are not executed are counted."""

    def begin(self, x: Tensor) -> None:
        """Note that the block is called with an input."""

    def end(self, y: Tensor) -> None:
        """Note that it has returned an output."""

    def repeat(self) -> None:
        """Count another block like it."""


@dataclass
class _Call:
    """The latest call of the second block of a run: its output and its recorder."""

    meter: BlockMeter | None
    output: Any = None


@contextmanager
def skip_repeated_blocks(model: nn.Module, meter: Callable[[], BlockMeter] | None = None) -> Iterator[list[nn.Module]]:
    """Skip all but two blocks of each run of identical ones; yield the list of those that were skipped.

    All but three, where the blocks of a run are called with more than the features of the one before; none of those
    that are called several times, whose gradients only the first of their backward passes makes.

    Exact for tensors without values: every block from the second on reads the output of a block like itself. The first
    reads another tensor, which autograd may have saved already, and so may cost less. A backward pass skips the same
    blocks: the second one's gradient is then that of the last.
    """
    skipped: list[nn.Module] = []
    blocks = list(iter_blocks(model))
    with restore_forward(blocks):
        for _, second, *others in filter(lambda run: len(run) > 2, _runs(model)):
            call = _Call(meter() if meter else None)
            second.forward = partial(_record, second.forward, call)
            last = others[-1].forward
            for block in others:
                block.forward = partial(_replay, block, block.forward, call, skipped)
            others[-1].forward = partial(_replay_last, last, others[-1].forward, call)
        yield skipped


@contextmanager
def restore_forward(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Undo on exit whatever the body assigns to the `forward` of these modules."""
    # From __dict__: the attribute would also find the method of the class, and restoring that would make it one of the
    # instance, a cycle of references that keeps the module alive.
    own = [(module, module.__dict__.get("forward")) for module in modules]
    try:
        yield
    finally:
        for module, forward in own:
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward


def _record(forward: Callable[..., Any], call: _Call, x: Tensor, *inputs: Any, **named: Any) -> Any:
    if call.meter is not None:
        call.meter.begin(x)
    call.output = forward(x, *inputs, **named)
    if call.meter is not None:
        call.meter.end(first_output(call.output))
    return call.output


def _replay(
    block: nn.Module,
    forward: Callable[..., Any],
    call: _Call,
    skipped: list[nn.Module],
    x: Tensor,
    *inputs: Any,
    **named: Any,
) -> Any:
    """Return the recorded output if it is also the input, as in a plain stack; run the block otherwise."""
    if x is not first_output(call.output):
        return forward(x, *inputs, **named)
    if call.meter is not None:
        call.meter.repeat()
    skipped.append(block)
    return call.output


def _replay_last(
    forward: Callable[..., Any], replay: Callable[..., Any], call: _Call, *inputs: Any, **named: Any
) -> Any:
    try:
        # A tensor that all blocks of a run read beside their features has one gradient: the last block's backward pass,
        # which is the first, makes it, and those of the others add to it, as the second one's is to be counted.
        return (forward if named else replay)(*inputs, **named)
    finally:
        call.output = None  # the caller alone decides how long it lives


def first_output(output: Any) -> Any:
    """Return the features of a block's output, which the next block reads: before the state, and values beside them."""
    while isinstance(output, tuple):
        output = output[0]
    return output


def _runs(model: nn.Module) -> list[list[nn.Module]]:
    runs: list[list[nn.Module]] = []
    previous, num_calls = None, Counter(map(id, iter_calls(model)))
    for block in iter_blocks(model):
        structure = _structure(block) if num_calls[id(block)] == 1 else {"": id(block)}
        if structure != previous:
            runs.append([])
        runs[-1].append(block)
        previous = structure
    return runs


def _structure(block: nn.Module) -> dict[str, Any]:
    """Return everything that a forward pass on the meta device can depend on."""
    return {name: (type(module), _attributes(vars(module))) for name, module in block.named_modules()}


def _attributes(value: Any) -> Any:
    """Replace tensors by shape and dtype, and objects without a value to compare by their identity."""
    if isinstance(value, dict):
        return {key: _attributes(entry) for key, entry in value.items() if key not in _SKIPPED_ATTRIBUTES}
    if isinstance(value, list | tuple | set):
        return [_attributes(entry) for entry in value]
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.requires_grad
    if is_dataclass(value) and not isinstance(value, type):  # such as an attention function's shape
        return type(value), _attributes(vars(value))
    return value if isinstance(value, _SCALARS) else id(value)
