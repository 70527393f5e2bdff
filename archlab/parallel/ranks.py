"""The processes that train one model together, and the place of this one among them.

Their axes from the outside in: copies (`replicate`), shards of the weights (`shard`), pieces of the context (`chunk`),
and `tensor`. A process by itself is rank 0 of 1, and every method here does nothing then.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from archlab.config.experiment import Experiment
from archlab.config.parallel import Layout, layout_of
from archlab.errors import ArchlabError, ConfigError, MachineError, PeerError
from archlab.ops.rank_sum import RankAxis
from archlab.parallel.session import PATIENCE, Session, present_place, session
from archlab.runtime.outcome import Outcome, outcome_of
from archlab.runtime.rank_status import (
    RankStatus,
    explain_loss,
    has_launcher,
    open_status_store,
    publish,
    read_statuses,
)
from archlab.runtime.signals import Stopped, defer_keyboard_interrupt, take_deferred

Item = TypeVar("Item")
AXES = ("replicate", "shard", "chunk", "tensor")
# The ranks agree on the largest of their numbers; smaller ones are of signals.
_USER, _FAILED = 1000, 2000
_ADVICE = "run the same command with --resume to continue from the last checkpoint"


class Ranks:
    """One process, or this one among the processes of a session, laid out as `layout` says."""

    def __init__(self, layout: Layout | None = None, session: Session | None = None) -> None:
        self.layout = layout or Layout()
        self.session = session
        self.rank, self.count = (session.place.rank, session.place.count) if session else (0, 1)
        self.pending: BaseException | None = None
        self._calls, self._published = 0, (0, "start")
        self._status_store = (open_status_store() or session.store) if session else None
        assert self.layout.devices == self.count, "a layout of another number of processes"

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def data_index(self) -> int:
        """Which part of an update's sequences this process has."""
        return self.rank // (self.layout.chunk * self.layout.tensor)

    @property
    def chunk_index(self) -> int:
        """Which piece of their context this process has."""
        return self.rank // self.layout.tensor % self.layout.chunk

    @cached_property
    def mesh(self) -> DeviceMesh:
        """The mesh of the axes that have more than one rank, of several processes."""
        assert self.session is not None
        sizes = self.layout.to_dict()
        axes = tuple(axis for axis in AXES if sizes[axis] > 1)
        shape = tuple(sizes[axis] for axis in axes)
        return init_device_mesh(self.session.device.type, shape, mesh_dim_names=axes)

    @cached_property
    def tensor_axis(self) -> RankAxis:
        """The ranks that divide heads, channels and vocabularies with this one."""
        return RankAxis.of_group(self.mesh.get_group("tensor"))

    @cached_property
    def chunk_axis(self) -> RankAxis:
        """The ranks that divide a context with this one."""
        return RankAxis.of_group(self.mesh.get_group("chunk"))

    def sum(self, *values: float) -> list[float]:
        """Return the sums of values over all ranks, each of which has its own part of the whole."""
        if self.session is None:
            return list(values)
        # Those that differ in `tensor` alone have the same part.
        own = values if self.rank % self.layout.tensor == 0 else [0.0] * len(values)
        total = torch.tensor(own, dtype=torch.float64, device=self.session.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def max(self, value: int) -> int:
        """Return the largest of the ranks' values."""
        if self.session is None:
            return value
        largest = torch.tensor(value, dtype=torch.int64, device=self.session.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def on_first(self, function: Callable[[], Any]) -> Any:
        """Return a function's result in the first process, sent as JSON; the others wait and do not call it.

        If it raises there, the others raise PeerError.
        """
        if self.session is None:
            return function()
        self._calls += 1
        store, key = self.session.store, f"first/{self._calls}"
        if not self.is_first:
            store.wait([key], PATIENCE)
            message = json.loads(store.get(key))
            if "status" in message:
                raise PeerError(message["status"])
            return message["value"]
        try:
            value = function()
        except BaseException as error:
            store.set(key, json.dumps({"status": outcome_of(error).exit_status}))
            raise
        store.set(key, json.dumps({"value": value}))
        return json.loads(json.dumps(value))

    def publish(self, update: int, phase: str) -> None:
        """Publish the status of this rank to the launcher and the other ranks."""
        self._published = (update, phase)
        if self._status_store is not None:
            publish(self._status_store, RankStatus(self.rank, update, phase))

    def report_once(self, error: ArchlabError) -> ArchlabError:
        """Return the error of a failure of all ranks: PeerError in all but the first, so that it is logged once."""
        return error if self.is_first else PeerError(outcome_of(error).exit_status)

    def explain_loss(self, waited: bool) -> ArchlabError:
        """Return the error of a rank that has lost the others, or timed out waiting; only one rank reports it."""
        status = PeerError(Outcome.MACHINE.exit_status)
        if self.session is None or self._status_store is None:
            return status
        store, own = self._status_store, RankStatus(self.rank, *self._published)
        try:
            publish(store, replace(own, lost=True, waited=waited))
            # archlab's launcher knows more, and reports it itself.
            if has_launcher() or store.compare_set("speaker", "", str(self.rank)) != str(self.rank).encode():
                return status
            time.sleep(1.0)  # until others that wait have said so
            return MachineError(f"{explain_loss(read_statuses(store, self.count))}; {_ADVICE}")
        except dist.DistError:  # the store was the lost process's
            return MachineError(f"rank {self.rank} has lost the other processes in update {own.update}; {_ADVICE}")

    @contextmanager
    def keep_error(self) -> Iterator[None]:
        """Keep an exception of a step that one rank alone runs until `raise_together`, where all of them raise."""
        try:
            yield
        except BaseException as error:
            if self.session is None or self.pending is not None:
                raise
            self.pending = error

    def raise_together(self) -> None:
        """Raise in all ranks if one of them has kept an error, or was asked by a signal to stop.

        A wish to stop is the same in all. An error is raised by the first rank that has one, PeerError by the others.
        """
        if self.session is None:
            return
        own = take_deferred()
        if self.pending is not None:
            outcome = outcome_of(self.pending)
            own = _USER if outcome is Outcome.USER else _FAILED + outcome.exit_status
        agreed = self.max(own)
        if not agreed:
            return
        if agreed < _USER:
            raise Stopped(agreed)
        pending, self.pending = self.pending, None
        speaker = self.count - self.max(self.count - self.rank if pending is not None else 0)
        if pending is not None and self.rank == speaker:
            raise pending
        raise PeerError(agreed - _FAILED) if agreed >= _FAILED else Stopped(signal.SIGINT)

    def together(self) -> Any:
        """Return a block in which signals wait for `raise_together`; by itself a process need not wait."""
        return nullcontext() if self.session is None else defer_keyboard_interrupt()

    def share(self, items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield the items of this rank in turn with whether each counts: all ranks take equally many steps.

        Those that differ in `tensor` alone take the same. Where the items do not divide, some repeat one in vain.
        """
        if self.session is None:
            yield from ((item, True) for item in items)
            return
        shares, own = self.count // self.layout.tensor, self.rank // self.layout.tensor
        for turn in _turns(items, shares):
            yield turn[own if own < len(turn) else 0], own < len(turn)

    def seed(self, base: int, step: int) -> None:
        """Seed the default generator for an update of this rank: a run resumed in another layout has no other state."""
        if self.session is not None:
            part = self.rank // self.layout.tensor
            torch.manual_seed(hash((base, step, part)) & (2**63 - 1))  # of integers Python's hash is always the same


@contextmanager
def join_ranks(experiment: Experiment) -> Iterator[Ranks]:
    """Join the processes that a launcher has started with this one, in the experiment's layout; see `session`.

    Raises ConfigError if the layout is of another number of processes. An error of communication, once another process
    has gone or hangs, is raised as MachineError naming it, by one process; by the others as PeerError.
    """
    place = present_place()
    try:
        layout = layout_of(experiment.parallel, place.count)
    except ConfigError as error:
        if place.is_first:
            raise ConfigError(error.path, error.problem, experiment.source) from None
        raise PeerError(Outcome.TRIAL.exit_status) from None
    with session(experiment.train.device) as joined:
        ranks = Ranks(layout, joined)
        try:
            yield ranks
        except Exception as error:
            if joined is None or not is_lost_peer(error):
                raise
            raise ranks.explain_loss("timed out" in str(error).lower()) from error


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an exception is of a collective whose other processes have gone, or do not come."""
    if isinstance(error, dist.DistError):
        return True
    # gloo raises a bare RuntimeError, which names its own sources (torch 2.13).
    return type(error) is RuntimeError and ("gloo" in str(error) or "Connection closed by peer" in str(error))


def _turns(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    turn: list[Item] = []
    for item in items:
        turn.append(item)
        if len(turn) == size:
            yield turn
            turn = []
    if turn:
        yield turn
