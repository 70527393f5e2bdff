"""The workers of a search: each holds a lease in its directory, which has its current work and its liveness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.storage.lease_file import LEASE
from archlab.storage.lease_observer import LeaseObserver, LeaseView
from archlab.storage.leases import Lease, declare_lost, require_not_lost
from archlab.training.callbacks import Callback

DIR = "workers"
# Of this thread, as a process may have several searches: Optuna's trials and archlab's callbacks carry none of it.
_own: ContextVar[Lease | None] = ContextVar("own_lease", default=None)


@dataclass(frozen=True)
class Worker:
    """A worker as another process sees it.

    - `state`: working, idle, ended (with an error), or died.
    - `trial`, `run`: what it works on, or worked on when it ended, with `work_since` in UTC.
    - `reason`: why it ended or is considered dead.
    - `host`, `pid`, `since`: where it runs, for people.
    """

    id: str
    state: str
    trial: int | None
    run: str
    work_since: str
    host: str
    pid: int
    since: str
    reason: str = ""
    dead_since: str = ""


@contextmanager
def hold_lease(folder: Path) -> Iterator[Lease]:
    """Be one of the workers of a search within a block."""
    with Lease(folder / DIR) as lease:
        token = _own.set(lease)
        try:
            yield lease
        finally:
            _own.reset(token)


def own_lease(folder: Path) -> Lease | None:
    """Return the lease that this thread holds in the directory of a search, if any."""
    lease = _own.get()
    return lease if lease is not None and lease.folder == folder / DIR else None


def bury_dead_workers(folder: Path) -> dict[str, LeaseView]:
    """Return the leases of a search by their UUIDs, after marking the dead ones, which might wake up.

    A worker that holds a lease itself has watched the others since; any other process knows of this machine alone.
    """
    lease = own_lease(folder)
    views = (lease.observer if lease else LeaseObserver(folder / DIR)).look()
    for view in views.values():
        if view.dead and view.state != "ended":
            declare_lost(folder / DIR, view.id, view.dead)
    return views


def is_dead(folder: Path, holder: str, workers: Mapping[str, LeaseView]) -> bool:
    """Return whether a worker is dead, of which no lease is left if it has ended properly."""
    view = workers.get(holder)
    return bool(view.dead) if view else not (folder / DIR / f"{holder}{LEASE}").exists()


def read_workers(folder: Path, observer: LeaseObserver | None = None) -> list[Worker]:
    """Return the workers of a search, the oldest first: those that work, and those that died or ended with an error.

    A single call detects dead processes on this machine, and those that other workers have marked; an `observer` of
    `folder / "workers"` that looks repeatedly also detects them on other machines.
    """
    views = (observer or LeaseObserver(folder / DIR)).look().values()
    return [_worker(view) for view in views]


def _worker(view: LeaseView) -> Worker:
    work = view.work or {}
    state = view.state if view.is_alive or view.state == "ended" else "died"
    work_fields = (view.id, state, work.get("trial"), str(work.get("run", "")), view.work_since)
    return Worker(*work_fields, view.host, view.pid, view.since, view.reason or view.dead, view.dead_since)


def work_on(folder: Path, work: Mapping[str, Any] | None) -> None:
    """Publish what this worker works on, such as `{"run": "baseline"}`, to the other workers; None is nothing."""
    if lease := own_lease(folder):
        lease.update(work)


class Fence(Callback):
    """Ends a training run with LeaseLost once others have taken over its trial; `lost_file` is that of the lease.

    A checkpoint follows a step or an evaluation, so that none is written after the trial was taken over.
    """

    def __init__(self, lost_file: Path) -> None:
        self.lost_file = lost_file

    def on_start(self, experiment: object, step: int) -> None:
        """Look for the file."""
        require_not_lost(self.lost_file)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Look for the file."""
        require_not_lost(self.lost_file)

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Look for the file."""
        require_not_lost(self.lost_file)


def fence(folder: Path) -> Callback:
    """Return the callback of a training run of this worker, which ends if it is a trial that others have taken over."""
    lease = own_lease(folder)
    # No other worker takes a baseline, even if one considers this worker dead.
    return Fence(lease.lost_file) if lease and "trial" in (lease.work or {}) else Callback()
