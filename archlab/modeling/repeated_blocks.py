"""Counting passes over runs of identical blocks: two blocks of a run are executed, the others counted like them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from archlab.modeling.backbone import iter_blocks

# Submodules are described one by one. A `forward` set on an instance is archlab's own: checkpointing, or a replay.
_SKIPPED_ATTRIBUTES = ("_modules", "forward")
_SCALARS = (str, int, float, complex, bytes, type(None), torch.dtype, torch.device, type)


@dataclass
class _Call:
    """The latest call of the second block of a run: its output, and how much the call added to a counter."""

    output: Any = None
    increase: int = 0


@contextmanager
def skip_repeated_blocks(model: nn.Module, counter: Callable[[], int] = int) -> Iterator[list[int]]:
    """Skip all but two blocks of each run of identical ones; yield the list of their increments of `counter`.

    Exact on the meta device, where tensors have no values: every block from the second on reads the output of a block
    like itself. The first reads another tensor, which autograd may have saved already, and so may add less.
    """
    increases: list[int] = []
    blocks = list(iter_blocks(model))
    with restore_forward(blocks):
        for _, second, *others in filter(lambda run: len(run) > 2, _runs(blocks)):
            call = _Call()
            second.forward = partial(_record, second.forward, call, counter)
            for block in others:
                block.forward = partial(_replay, block.forward, call, increases)
        yield increases


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


def _record(forward: Callable[..., Any], call: _Call, counter: Callable[[], int], *inputs: Any) -> Any:
    before = counter()
    call.output = forward(*inputs)
    call.increase = counter() - before
    return call.output


def _replay(forward: Callable[..., Any], call: _Call, increases: list[int], x: Any, *inputs: Any) -> Any:
    """Return the recorded output if it is also the input, as in a plain stack; run the block otherwise."""
    if x is not (call.output[0] if isinstance(call.output, tuple) else call.output):
        return forward(x, *inputs)
    increases.append(call.increase)
    return call.output


def _runs(blocks: Sequence[nn.Module]) -> list[list[nn.Module]]:
    runs: list[list[nn.Module]] = []
    previous = None
    for block in blocks:
        structure = _structure(block)
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
