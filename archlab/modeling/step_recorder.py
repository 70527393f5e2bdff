"""A recorder of a training step: FLOPs and bytes of each kind of operation, and the bytes of live tensors."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from archlab.ops.op_costs import backward_flops_ahead, find_body, trace_loops
from archlab.runtime.private_apis import DispatchMode, argument_names, flop_formula, is_device_query

PHASES = ("forward", "recompute", "backward", "optimizer")
# Operations that return uninitialized memory, or the same memory under another shape.
_NO_TRAFFIC = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten.lift_fresh")
# Operations that read as many entries of their first input as they return, and those that only write to it.
_LOOKUPS = ("aten.embedding", "aten.gather", "aten.index", "aten.index_select")
_OVERWRITES = ("aten.copy_", "aten.fill_", "aten.zero_")
# Attention whose masked half is skipped, without an argument that says so.
_CAUSAL = ("archlab.causal_attention", "archlab.blocked_attention", "archlab.fused_attention")
# Operations that torch composes of others above autograd: called below it, as by a body, they arrive whole.
_COMPOSITE = ("aten.matmul", "aten.linear", "aten.einsum")


class _Kind(NamedTuple):
    """One kind of operation and its counts of calls, FLOPs and bytes."""

    name: str
    phase: str
    dtype: torch.dtype
    figure: str


@dataclass(frozen=True)
class OpCost:
    """One kind of operation in one phase of a step: calls, FLOPs, and bytes read and written, all of them summed.

    `name` is torch's, such as `aten.mm`; `phase` is forward, recompute (by activation checkpointing), backward or
    optimizer; `dtype` is that of the output.
    `skipped_flops` of the FLOPs are those of causal attention's masked half, which fused kernels leave out.
    """

    name: str
    phase: str
    dtype: torch.dtype
    calls: int
    flops: int
    bytes: int
    skipped_flops: int = 0


class StepRecorder(DispatchMode):
    """Counts the operations of one phase after the other, and follows the lifetimes of the tensors' memory.

    `live` are the bytes alive now and `peak` their maximum so far; `top` is the maximum since a caller reset it, and
    `made` is the memory allocated since then that is still alive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase, self.counts = PHASES[0], Counter[_Kind]()
        self.live = self.peak = self.top = self._mark = 0
        self.backward_flops_ahead = 0
        self.made: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run and record one operation."""
        if is_device_query(func):
            return args[0].device
        name, options = str(func.overloadpacket), dict(kwargs or {})
        body = find_body(name)
        if body is not None:
            self.backward_flops_ahead += backward_flops_ahead(name, args)
        elif name in _COMPOSITE:
            body = func.decompose
        if body is not None:
            with self, trace_loops(self._skip_alike):  # a mode is not active in its own method
                return body(*args, **options)
        output = func(*args, **options)
        self.follow(output)
        self._count(func, name, args, options, output)
        return output

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Count operations inside as recomputed."""
        phase, self.phase = self.phase, "recompute"
        try:
            yield
        finally:
            self.phase = phase

    def _skip_alike(self, items: Sequence[Any]) -> Iterator[Any]:
        """Run the first, the second and the last item of a loop, and count the others like the second."""
        if len(items) < 4:
            yield from items
            return
        yield items[0]
        before = self.counts.copy()
        yield items[1]
        increase = self.counts - before
        self.counts.update({kind: (len(items) - 3) * number for kind, number in increase.items()})
        yield items[-1]

    def follow(self, tensors: Any) -> None:
        """Count the memory of tensors as live for as long as something holds it."""
        for tensor in iter_tensors(tensors):
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self.made.add(storage)
                self.grow(storage.nbytes())
                weakref.finalize(storage, self.grow, -storage.nbytes())

    def grow(self, num_bytes: int) -> None:
        """Add bytes to those alive; a negative number frees."""
        self.live += num_bytes
        self._mark = max(self._mark, self.live)
        self.note_peak(self.live)

    def take_mark(self, going: int = 0) -> int:
        """Return the most bytes that were alive since the last call; `going` are added to those alive at once."""
        mark, self._mark = self._mark, self.live + going
        return mark

    def note_peak(self, num_bytes: int) -> None:
        """Take note of a number of live bytes that was reached."""
        self.peak, self.top = max(self.peak, num_bytes), max(self.top, num_bytes)

    def count(self, name: str, dtype: torch.dtype, **figures: int) -> None:
        """Add figures of an operation: calls, flops, bytes, skipped_flops."""
        for figure, number in figures.items():
            self.counts[_Kind(name, self.phase, dtype, figure)] += number

    def _count(self, func: Any, name: str, inputs: tuple[Any, ...], options: Mapping[str, Any], output: Any) -> None:
        outputs = list(iter_tensors(output))
        if func.is_view or not outputs or name.startswith(_NO_TRAFFIC):
            return
        formula = flop_formula(func.overloadpacket)
        flops = formula(*inputs, **options, out_val=output) if formula else 0
        moved = sum(map(_nbytes, outputs)) + _bytes_read(name, inputs, outputs)
        skipped = flops // 2 if flops and _is_causal(func, name, inputs, options) else 0
        self.count(name, outputs[0].dtype, calls=1, flops=flops, bytes=moved, skipped_flops=skipped)

    def ops(self) -> tuple[OpCost, ...]:
        """Return the costs of each kind of operation, in order of phase and first call."""
        kinds = dict.fromkeys((kind.name, kind.phase, kind.dtype) for kind in self.counts)
        figures = ("calls", "flops", "bytes", "skipped_flops")
        costs = [OpCost(*kind, *(self.counts[_Kind(*kind, figure)] for figure in figures)) for kind in kinds]
        return tuple(sorted(costs, key=lambda cost: PHASES.index(cost.phase)))


def iter_tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and mappings."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from iter_tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from iter_tensors(value)


def _nbytes(tensor: Tensor) -> int:
    # An expanded tensor has more elements than its memory.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _bytes_read(name: str, inputs: tuple[Any, ...], outputs: list[Tensor]) -> int:
    read = [_nbytes(tensor) for tensor in iter_tensors(inputs)]
    if name in _LOOKUPS:
        read[0] = min(read[0], _nbytes(outputs[0]))
    return sum(read[1:] if name in _OVERWRITES else read)


def _is_causal(func: Any, name: str, inputs: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    if name.startswith(_CAUSAL):
        return True
    arguments = dict(zip(argument_names(func), inputs, strict=False)) | dict(options)
    return bool(arguments.get("is_causal", False))
