"""Observers of leases: a holder lives while its counter changes, as seen by one who looks again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from archlab.storage.lease_file import LEASE, LOCK, LOST, LeaseFile, boot_id, read_lease, read_note
from archlab.storage.locks import lock

ENDED = "its process has ended"
# The most time that one call counts, as a part of a lease's time: an observer that was suspended itself, perhaps with
# the whole machine, has watched nobody meanwhile.
_MAX_PART = 0.25


@dataclass(frozen=True)
class LeaseView(LeaseFile):
    """A lease as an observer sees it.

    `silent_s` is for how many seconds it has seen no change, `dead` why the holder is considered dead, if it is, and
    `dead_since` when others have said so.
    """

    silent_s: float = 0.0
    dead: str = ""
    dead_since: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether nothing says that the holder is dead."""
        return not self.dead


class LeaseObserver:
    """Remembers counters; a holder is dead when its own has not changed for the time of its lease.

    `clock` returns seconds, and `boot` identifies this kernel; locks of other kernels prove nothing here.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic, boot: str | None = None) -> None:
        self.folder, self.clock = folder, clock
        self.boot = boot_id() if boot is None else boot
        self._seen: dict[str, LeaseFile] = {}
        self._silent: dict[str, float] = {}
        self._last: float | None = None
        self._looking = threading.Lock()

    def look(self) -> dict[str, LeaseView]:
        """Return the leases by their UUIDs, the oldest first."""
        with self._looking:
            now = self.clock()
            passed, self._last = 0.0 if self._last is None else now - self._last, now
            views = [self._view(file, passed) for file in self.folder.glob(f"*{LEASE}")]
        return {view.id: view for view in sorted(views, key=lambda view: (view.since, view.id))}

    def _view(self, file: Path, passed: float) -> LeaseView:
        name = file.name.removesuffix(LEASE)
        before = self._seen.get(name)
        # A file that cannot be read is one whose counter is not seen to change.
        lease = self._seen[name] = read_lease(file) or before or LeaseFile(name)
        if before is not None and before.counter == lease.counter:
            self._silent[name] += min(passed, lease.lease_s * _MAX_PART)
        else:
            self._silent[name] = 0.0
        note = read_note(self.folder / f"{name}{LOST}")
        dead = note.get("why") or self._why_dead(lease)
        return LeaseView(**asdict(lease), silent_s=self._silent[name], dead=dead, dead_since=note.get("when", ""))

    def _why_dead(self, lease: LeaseFile) -> str:
        if lease.state == "ended":
            return lease.reason or ENDED
        if lease.boot and lease.boot == self.boot and self._is_released(lease.id):
            return ENDED
        return f"it has not answered for {lease.lease_s:g} s" if self._silent[lease.id] >= lease.lease_s else ""

    def _is_released(self, name: str) -> bool:
        # Shared, so that two observers do not take each other for the holder.
        with suppress(OSError), lock(self.folder / f"{name}{LOCK}", wait=False, shared=True, create=False) as acquired:
            return acquired
        return False


def read_leases(folder: Path) -> list[LeaseView]:
    """Return the leases of a directory; a single call detects only dead processes of this machine, and marked ones."""
    return list(LeaseObserver(folder).look().values())
