"""The context of a stream cut over ranks: each hands its state on to the next, whose gradient comes back.

Exact for whatever streams, since a call that is split among several has the same outputs: the state of a model says all
of all that later tokens read of earlier ones, so no component needs to know. A sequence is computed by one rank after
the other; several sequences follow each other through the ranks, which all compute but at the beginning and the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from archlab.modeling.state import State
from archlab.parallel.ranks import Ranks
from archlab.parallel.shard import unshard

# Name, dtype and shape of each entry of a state, which both ends of a link know after its first state.
Header: TypeAlias = Sequence[tuple[str, str, Sequence[int]]]
Piece: TypeAlias = tuple[Tensor, Tensor]  # inputs and targets
Forward: TypeAlias = Callable[[Tensor, Tensor, State | None], tuple[Tensor, State]]
PIECES = 2  # for each rank of a context: with twice as many, ranks wait for a fifth of the time instead of a third


def num_pieces(rows: int, chunks: int) -> int:
    """Return the number of pieces of a micro-batch of given sequences, each cut over the given number of ranks."""
    return max(size for size in range(1, min(rows, PIECES * chunks) + 1) if rows % size == 0)


class Relay:
    """The links of a rank to those that have the pieces of the context before and after its own."""

    def __init__(self, ranks: Ranks) -> None:
        self._group = ranks.mesh.get_group("chunk")
        stride = ranks.layout.tensor
        self._before = ranks.rank - stride if ranks.chunk_index > 0 else None
        self._after = ranks.rank + stride if ranks.chunk_index < ranks.layout.chunk - 1 else None
        assert ranks.session is not None
        self._device = ranks.session.device
        self._chunks = ranks.layout.chunk
        self._headers: dict[tuple[str, int], Header] = {}
        self._sent: list[tuple[dist.Work, Tensor]] = []

    @property
    def is_last(self) -> bool:
        """Whether this rank has the end of the context."""
        return self._after is None

    def expect(self, before: Relay) -> None:
        """Copy the entries of a state from the relay of the rank before, so that it need not send them."""
        self._headers |= {("in", rows): header for (way, rows), header in before._headers.items() if way == "out"}

    def num_pieces(self, rows: int) -> int:
        """Return into how many pieces of equally many sequences a micro-batch is cut, for ranks to wait little."""
        return num_pieces(rows, self._chunks)

    def run(self, model: nn.Module, pieces: Sequence[Piece], forward: Forward) -> None:
        """Run the passes of a micro-batch in pieces; `forward` returns the loss of one, and its last state."""
        passes = []
        for inputs, targets in pieces:
            rows = len(inputs)
            initial = self._receive(rows)
            loss, state = forward(inputs, targets, initial)
            self._send(state, rows)
            # Of the last rank nothing reads the state, and its graph, which no backward pass frees, holds activations.
            passes.append((loss, initial, {} if self.is_last else state, rows))
            del state
        for loss, initial, state, rows in passes:
            unshard(model)  # the backward pass of another piece has resharded the weights that this one's has saved
            self._backward(loss, initial, state, rows)
        for work, _ in self._sent:
            work.wait()
        self._sent = []

    def _receive(self, rows: int) -> State | None:
        """Return the state after the tokens of the rank before, which gradients lead back to; None starts a stream."""
        if self._before is None:
            return None
        header = self._headers.get(("in", rows)) or self._receive_header(rows)
        initial = self._receive_state(header, self._before)
        for tensor in initial.values():
            if tensor.is_floating_point():
                tensor.requires_grad_().register_post_accumulate_grad_hook(_own_gradient)
        return initial

    def _send(self, state: State, rows: int) -> None:
        """Hand the state after this rank's tokens to the next rank."""
        if self._after is not None:
            header = self._headers.get(("out", rows)) or self._send_header(state, rows)
            self._send_state(state, header, self._after)

    def _backward(self, loss: Tensor, initial: State | None, state: State, rows: int) -> None:
        """Run the backward pass of a loss, and of the state by its gradient from later ranks."""
        roots = [(loss, torch.ones_like(loss))]
        if self._after is not None:
            gradients = self._receive_state(_floating_entries(self._headers["out", rows]), self._after)
            roots += [(state[name], gradient) for name, gradient in gradients.items()]
        roots = [(root, gradient) for root, gradient in roots if root.requires_grad]
        torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])
        if self._before is not None and initial is not None:
            header = _floating_entries(self._headers["in", rows])
            self._send_state({name: _gradient(initial[name]) for name, _, _ in header}, header, self._before)

    def _receive_state(self, header: Header, rank: int) -> State:
        flat = {dtype: torch.empty(size, dtype=_dtype(dtype), device=self._device) for dtype, size in _sizes(header)}
        for tensor in flat.values():
            dist.recv(tensor, rank, group=self._group)
        return _unpack(flat, header, self._device)

    def _send_state(self, state: State, header: Header, rank: int) -> None:
        for tensor in _pack(state, header).values():
            work = dist.isend(tensor, rank, group=self._group)
            assert work is not None
            self._sent.append((work, tensor))  # which must live until it is sent

    def _receive_header(self, rows: int) -> Header:
        size = torch.empty(1, dtype=torch.int64, device=self._device)
        dist.recv(size, self._before, group=self._group)
        text = torch.empty(int(size), dtype=torch.uint8, device=self._device)
        dist.recv(text, self._before, group=self._group)
        header: Header = json.loads(bytes(text.tolist()))
        self._headers["in", rows] = header
        return header

    def _send_header(self, state: State, rows: int) -> Header:
        header = [(name, str(x.dtype).removeprefix("torch."), list(x.shape)) for name, x in state.items()]
        text = torch.tensor(list(json.dumps(header).encode()), dtype=torch.uint8, device=self._device)
        dist.send(torch.tensor([len(text)], dtype=torch.int64, device=self._device), self._after, group=self._group)
        dist.send(text, self._after, group=self._group)
        self._headers["out", rows] = header
        return header


def _dtype(name: str) -> torch.dtype:
    dtype: Any = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _floating_entries(header: Header) -> Header:
    return [entry for entry in header if _dtype(entry[1]).is_floating_point]


def _sizes(header: Header) -> list[tuple[str, int]]:
    """Return the number of entries of each dtype, in an order that both ends of a link have."""
    sizes: dict[str, int] = {}
    for _, dtype, shape in header:
        sizes[dtype] = sizes.get(dtype, 0) + torch.Size(shape).numel()
    return [(dtype, size) for dtype, size in sizes.items() if size]


def _pack(state: Mapping[str, Tensor], header: Header) -> dict[str, Tensor]:
    """Return the entries of a state joined by dtype, so that one message each carries them."""
    flat = {}
    for dtype, _ in _sizes(header):
        flat[dtype] = torch.cat([state[name].detach().reshape(-1) for name, other, _ in header if other == dtype])
    return flat


def _unpack(flat: Mapping[str, Tensor], header: Header, device: torch.device) -> State:
    state: State = {}
    used = dict.fromkeys(flat, 0)
    for name, dtype, shape in header:
        size = torch.Size(shape).numel()
        begin = used.get(dtype, 0)
        whole = flat[dtype] if dtype in flat else torch.empty(0, dtype=_dtype(dtype), device=device)
        # Tensors of their own: a leaf that is a view of another could not take a gradient.
        state[name] = whole[begin : begin + size].clone().reshape(shape)
        if dtype in used:
            used[dtype] += size
    return state


def _own_gradient(leaf: Tensor) -> None:
    """Have a leaf's gradient hold no more memory than it takes: that of a concatenation is a view of the whole."""
    if leaf.grad is not None and leaf.grad.untyped_storage().nbytes() > leaf.grad.nbytes:
        leaf.grad = leaf.grad.clone()


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
