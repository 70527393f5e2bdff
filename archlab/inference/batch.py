"""Batched decoding of several streams, each with the same result as alone.

B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from archlab.inference.token_stream import TokenStream
from archlab.modeling.build import device_of, eval_mode
from archlab.modeling.state import RESERVED, State, reserve_state

Layout: TypeAlias = tuple[object, ...]


class Row(Protocol):
    """A stream of tokens, and the consumer of its logits."""

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens of its prompt."""

    @property
    def max_length(self) -> int:
        """The number of tokens that it may have in all."""

    @property
    def is_done(self) -> bool:
        """Whether no further token is wanted."""

    def add(self, logits_V: Tensor) -> int:
        """Return the next token, given the logits after all before."""


def decode_rows(model: nn.Module, rows: Iterable[Row], batch_size: int) -> Iterator[Row]:
    """Run streams to their ends, `batch_size` at a time, and yield each when it is done.

    A prompt is read by itself, as it would be alone, and no layer ever sees padding. Then its state joins those of the
    others: the rows of a batch are at different positions. When a row is done the next replaces it.
    """
    waiting, groups, has_more = iter(rows), list[_Group](), True
    with eval_mode(model):
        while groups or has_more:
            free = batch_size - sum(len(group.rows) for group in groups)
            new = list(islice(waiting, free))
            has_more = len(new) == free if free else has_more
            for row in new:
                if not row.is_done:
                    _start(model, groups, row)
                if row.is_done:
                    yield row
            for group in groups:
                yield from group.step(model)
            groups = [group for group in groups if group.rows]


def _start(model: nn.Module, groups: list[_Group], row: Row) -> None:
    """Read a row's prompt, and put it into the group whose states have the same layout, or into one of its own."""
    stream = TokenStream(model)
    token = row.add(stream.read(row.tokens))
    if row.is_done:
        return
    room = max([row.max_length, *(group.room for group in groups)])
    # Powers of two, so that few rows make others move to a state with more room.
    room = 2 ** (room - 1).bit_length()
    for group in groups:
        group.reserve(model, room)
    new = _Group([row], [token], reserve_state(model, stream.state, room), room)
    for group in groups:
        if group.layout is not None and group.layout == new.layout:
            group.join(new)
            return
    groups.append(new)


@dataclass
class _Group:
    """Rows whose states have one layout: their last tokens, and the state before these are read."""

    rows: list[Row]
    tokens: list[int]
    state: State
    room: int
    layout: Layout | None = field(init=False)

    def __post_init__(self) -> None:
        self.layout = _layout(self.state, len(self.rows))

    def reserve(self, model: nn.Module, room: int) -> None:
        """Make room in the state for streams of the given number of tokens."""
        if room > self.room:
            self.state, self.room = reserve_state(model, self.state, room), room
            self.layout = _layout(self.state, len(self.rows))

    def join(self, other: _Group) -> None:
        """Take over the rows of another group."""
        self.rows += other.rows
        self.tokens += other.tokens
        self.state = _join(self.state, other.state)

    @torch.no_grad()
    def step(self, model: nn.Module) -> list[Row]:
        """Read each row's last token, and return the rows that are done after the next."""
        logits_BTV, self.state = model(torch.tensor(self.tokens, device=device_of(model))[:, None], self.state)
        self.tokens = [row.add(logits_V) for row, logits_V in zip(self.rows, logits_BTV[:, -1].cpu(), strict=True)]
        # A state without reserved memory has grown to another layout: only rows that grow with it may join.
        self.layout = _layout(self.state, len(self.rows))
        done = [row for row in self.rows if row.is_done]
        if done:
            self._keep([index for index, row in enumerate(self.rows) if not row.is_done])
        return done

    def _keep(self, kept: list[int]) -> None:
        self.rows, self.tokens = [self.rows[index] for index in kept], [self.tokens[index] for index in kept]
        if self.rows:
            self.state = {name: x[torch.tensor(kept, device=x.device)] for name, x in self.state.items()}


def _layout(state: State, num_rows: int) -> Layout | None:
    """Return the properties that states must share to be joined; None for one without exactly one entry a row.

    A layer without room that is asked for keeps a state for each length: streams of one length share it.
    """
    if any(tensor.shape[:1] != (num_rows,) for tensor in state.values()):
        return None
    every = {name: (tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in state.items()}
    return tuple(sorted((name, value) for name, value in every.items() if not _is_reserved(name)))


def _join(one: State, other: State) -> State:
    """Return the states of the rows of both, which have one layout."""
    # Whole windows are reserved whether or not they say so; it is a matter of how they came to be whole.
    named = {**one, **other}
    return {name: torch.cat([_entry(state, name, named[name]) for state in (one, other)]) for name in named}


def _entry(state: State, name: str, other: Tensor) -> Tensor:
    if name in state:
        return state[name]
    return torch.ones(len(next(iter(state.values()))), dtype=other.dtype, device=other.device)


def _is_reserved(name: str) -> bool:
    return name.rpartition(".")[2] == RESERVED
