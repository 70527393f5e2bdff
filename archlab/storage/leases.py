"""Leases: which processes work on a directory, by counters that they increment and by no clock but the reader's.

A holder writes a counter into its file every few seconds. An observer that has seen the same one for the time of the
lease, by a monotonic clock of its own, considers the holder dead, whatever host, PID or lock there is: those of another
machine or container say nothing. Where both run on one kernel, a lock that the kernel has released says so at once. A
lock that is held proves nothing: a suspended process keeps it, and so does a child that outlives its parent.

A holder that was suspended may wake up when others have taken over its work. They write `ID.lost` first, for which it
looks before it writes anything: `Lease.is_lost`.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from archlab.errors import MachineError, describe_error, redact
from archlab.storage.lease_file import LEASE, LOCK, LOST, boot_id, new_lease, now
from archlab.storage.lease_observer import LeaseObserver
from archlab.storage.locks import lock

BEAT_S = 5.0
# Much longer than a busy machine or a slow disk ever keeps a thread from its next beat.
LEASE_S = 60.0
_KEPT = 100  # leases that were lost or ended with an error, for people to read


class LeaseLost(MachineError):
    """Others have taken over the work of this process, which was suspended or cut off from its directory."""


class Lease:
    """Says in a directory that this process lives, within a block; `observer` watches the other leases meanwhile."""

    def __init__(self, folder: Path, *, beat_s: float | None = None, lease_s: float | None = None) -> None:
        self.folder, self.beat_s = folder, BEAT_S if beat_s is None else beat_s
        self.lease_s = LEASE_S if lease_s is None else lease_s
        self.observer = LeaseObserver(folder)
        self._writing, self._stopped = threading.Lock(), threading.Event()

    def __enter__(self) -> Lease:
        self.folder.mkdir(parents=True, exist_ok=True)
        _prune(self.folder)
        self._open()
        self._thread = threading.Thread(target=self._beat_until_stopped, name="archlab-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._close("" if error is None else redact(describe_error(error)))

    @property
    def id(self) -> str:
        """The UUID of this process in the directory."""
        return self._told.id

    @property
    def lost_file(self) -> Path:
        """The file whose presence says that the lease is lost, also to other processes that work for its holder."""
        return self.folder / f"{self.id}{LOST}"

    @property
    def is_lost(self) -> bool:
        """Whether others consider this process dead, and take over its work."""
        return self.lost_file.exists()

    @property
    def work(self) -> Mapping[str, Any] | None:
        """The current work of this process."""
        return self._told.work

    def update(self, work: Mapping[str, Any] | None) -> None:
        """Publish what this process works on from now on, such as `{"trial": 3}`; None is nothing."""
        self._tell(work=work and dict(work), state="idle" if work is None else "working", work_since=now())

    def renew(self) -> None:
        """Go on under another UUID, since a lease that is lost stays lost."""
        self._held.close()
        self._open()

    def beat(self) -> None:
        """Increment the counter, unless the lease is lost, and look at those of the others."""
        if not self.is_lost:
            self._tell(counter=self._told.counter + 1)
        self.observer.look()

    def _open(self) -> None:
        self._held = ExitStack()
        name, boot = uuid.uuid4().hex, boot_id()
        try:  # before there is a lease: a reader takes one whose lock is free for that of a dead process
            self._held.enter_context(lock(self.folder / f"{name}{LOCK}", wait=True))
        except OSError:
            boot = ""
        self._told = replace(new_lease(self.lease_s, boot), id=name)
        self._told.write(self.folder)

    def _close(self, reason: str) -> None:
        if not self.is_lost and reason:
            self._tell(state="ended", reason=reason)
        elif not self.is_lost:
            (self.folder / f"{self.id}{LEASE}").unlink(missing_ok=True)
        (self.folder / f"{self.id}{LOCK}").unlink(missing_ok=True)
        self._held.close()

    def _beat_until_stopped(self) -> None:
        while not self._stopped.wait(self.beat_s):
            self.beat()

    def _tell(self, **changes: Any) -> None:
        with self._writing:
            self._told = replace(self._told, **changes)
            # A full disk or a file server that is away is not this thread's to report: if it lasts, the lease is lost.
            with suppress(OSError):
                self._told.write(self.folder)


def declare_lost(folder: Path, holder: str, why: str) -> None:
    """Mark a lease as dead before its work is taken over; of several reasons the first is kept."""
    note = json.dumps({"why": why, "when": now(), "by": platform.node()})
    with suppress(FileExistsError):
        descriptor = os.open(folder / f"{holder}{LOST}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write(note)


def require_not_lost(lost_file: Path) -> None:
    """Raise LeaseLost if a lease is lost, which this process or the one that it works for holds."""
    if lost_file.exists():
        raise LeaseLost("others have taken over the work of this process, since it did not answer for a while")


def _prune(folder: Path) -> None:
    names = {path.stem for path in folder.glob(f"*{LOST}")}
    names |= {path.stem for path in folder.glob(f"*{LEASE}") if not path.with_suffix(LOCK).exists()}
    for name in sorted(names, key=lambda name: _change_time(folder / f"{name}{LEASE}"))[:-_KEPT]:
        for suffix in (LEASE, LOCK, LOST):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)


def _change_time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
