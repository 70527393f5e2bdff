"""The current status of each process of a run, in a store shared with their launcher."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.distributed as dist

_PHASES = ("start", "data", "compute", "reduce", "evaluate", "gather", "write")  # of an update, in their order
STORE = "ARCHLAB_RANK_STORE"  # host:port of the launcher's store, if archlab is the launcher


@dataclass(frozen=True)
class RankStatus:
    """The update that a rank works on, and the phase of it; whether it has `lost` the others, or `waited` in vain."""

    rank: int
    update: int
    phase: str
    lost: bool = False
    waited: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} in update {self.update} ({self.phase})"


def has_launcher() -> bool:
    """Return whether archlab's own launcher has started this process; it reports how the others have ended."""
    return STORE in os.environ


def open_status_store() -> dist.Store | None:
    """Return the launcher's store, or None if there is none."""
    import torch.distributed as dist

    if STORE not in os.environ:
        return None
    host, _, port = os.environ[STORE].rpartition(":")
    return dist.TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))


def publish(store: dist.Store, status: RankStatus) -> None:
    """Publish the status of a rank."""
    store.set(f"status/{status.rank}", json.dumps(asdict(status)))


def read_statuses(store: dist.Store, count: int) -> list[RankStatus]:
    """Return the last status of every rank; a rank without one is starting."""
    return [_read(store, rank) for rank in range(count)]


def _read(store: dist.Store, rank: int) -> RankStatus:
    key = f"status/{rank}"
    return RankStatus(**json.loads(store.get(key))) if store.check([key]) else RankStatus(rank, 0, "start")


def slowest(statuses: Sequence[RankStatus]) -> RankStatus:
    """Return the status of the rank that is the furthest behind, of those that do not wait for others if there are."""
    waited_for = [status for status in statuses if not status.lost] or statuses
    return min(waited_for, key=lambda status: (status.update, _PHASES.index(status.phase)))


def explain_loss(statuses: Sequence[RankStatus]) -> str:
    """Return in a line which rank the others have waited for."""
    last = slowest(statuses)
    ahead = max(status.update for status in statuses)
    others = f"; the others are in update {ahead}" if ahead > last.update else ""
    what = "hangs" if any(status.waited for status in statuses) else "is the last to be heard of"
    return f"the processes have lost each other: {last} {what}{others}"
