"""The process group of this process: joined when training starts, left when it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from archlab.errors import ArchlabError, ConfigError, MachineError, one_line
from archlab.runtime.distributed_env import Place, find_place, rendezvous

TIMEOUT = "ARCHLAB_COLLECTIVE_TIMEOUT"  # seconds
_DEFAULT_TIMEOUT_S = 600.0
_JOINING = timedelta(minutes=10)
# For work of the first process alone, which may read and tokenize a corpus before the others continue.
PATIENCE = timedelta(hours=24)


@dataclass(frozen=True)
class Session:
    """The place of this process in its group, the device that it computes on, and the store that all of them share."""

    place: Place
    device: torch.device
    store: dist.Store


_session: Session | None = None


@contextmanager
def session(device: str) -> Iterator[Session | None]:
    """Join the processes that a launcher has started with this one; None where there are no others.

    `device` is `train.device`. Raises ArchlabError if there is no GPU for this process, or the others are not found.
    """
    place = present_place()
    if place.count == 1 or _session is not None:
        yield _session
        return
    with adopt(join(place, device)) as joined:
        yield joined
    # Not after an exception: the others may be gone, whom leaving would wait for, and the process ends soon.
    dist.destroy_process_group()


@contextmanager
def adopt(joined: Session) -> Iterator[Session]:
    """Have a session that somebody else has joined be this process's."""
    global _session
    before, _session = _session, joined
    try:
        yield joined
    finally:
        _session = before


def present_place() -> Place:
    """Return the place in the session, or in the session that the environment describes."""
    return find_place() if _session is None else _session.place


def join(place: Place, device: str) -> Session:
    """Join the group; see `session`."""
    chosen = _device_of(place, device)
    host, port = rendezvous()
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port), RANK=str(place.rank), WORLD_SIZE=str(place.count))
    timeout = timedelta(seconds=collective_timeout())
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=_JOINING))
        _wait_for_all(store, place)
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),
            rank=place.rank,
            world_size=place.count,
            timeout=timeout,
            device_id=chosen if chosen.type == "cuda" else None,
        )
    except (RuntimeError, ValueError, OSError) as error:
        problem = f"the {place.count} processes do not find each other at {host}:{port}: {one_line(error)}"
        raise MachineError(problem) from error
    return Session(place, chosen, dist.PrefixStore("archlab", store))


def _wait_for_all(store: dist.Store, place: Place) -> None:
    """Wait until every process is there: some have imported torch long before others, which is no fault."""
    store.set(f"here/{place.rank}", "")
    store.wait([f"here/{rank}" for rank in range(place.count)], _JOINING)


def _device_of(place: Place, device: str) -> torch.device:
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if place.local_rank >= torch.cuda.device_count():
        raise ArchlabError(
            f"{place.local_count} processes on a machine of {torch.cuda.device_count()} GPUs: start one a GPU, or set "
            "train.device=cpu"
        )
    chosen = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(chosen)
    return chosen


def collective_timeout() -> float:
    """Return the seconds that a process waits for the others; raise ConfigError if the variable is not a number."""
    value = os.environ.get(TIMEOUT, str(_DEFAULT_TIMEOUT_S))
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ConfigError(TIMEOUT, f"{value!r} is not a number of seconds")
    return seconds
