"""The files of a lease: `ID.json` holds its holder's data, `ID.lock` its lock, `ID.lost` says that it is lost."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from archlab.errors import ArchlabError
from archlab.storage.json_values import is_finite, require_fields

LEASE, LOCK, LOST = ".json", ".lock", ".lost"


@dataclass(frozen=True)
class LeaseFile:
    """The data of a holder; times, host and PID are for people only, and decide nothing.

    `boot` names the kernel that keeps the lock, and is empty where the file system has no locks. `state` is idle,
    working or ended, `work` its current work, `reason` why it ended.
    """

    id: str
    host: str = ""
    pid: int = 0
    boot: str = ""
    since: str = ""
    lease_s: float = 60.0
    counter: int = 0
    state: str = "idle"
    work: Mapping[str, Any] | None = None
    work_since: str = ""
    reason: str = ""

    def write(self, folder: Path) -> None:
        """Write the file atomically."""
        # Not flushed to the disk, where a beat could wait for minutes behind a checkpoint: after a crash of the machine
        # the holder is dead, whatever its file says.
        file = folder / f"{self.id}{LEASE}"
        partial = file.with_name(f".{file.name}.archlab-partial")
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(file)


def new_lease(lease_s: float, boot: str) -> LeaseFile:
    """Return the first lease of this process, without an id."""
    return LeaseFile("", platform.node(), os.getpid(), boot, now(), lease_s)


def read_lease(file: Path) -> LeaseFile | None:
    """Return a lease, or None for a file that holds none or cannot be read now, as one that has just been deleted."""
    data, known = read_note(file), {field.name for field in fields(LeaseFile)}
    try:
        lease = LeaseFile(**{name: value for name, value in data.items() if name in known})
        require_fields(lease, file)
    except (TypeError, ArchlabError):
        return None
    # A copy under another name, as a program that synchronizes directories makes, is nobody's lease.
    return lease if lease.id == file.name.removesuffix(LEASE) and is_finite(lease.lease_s) else None


def read_note(file: Path) -> dict[str, Any]:
    """Return a file of JSON, or nothing for one that cannot be read."""
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


@cache
def boot_id() -> str:
    """Return the UUID of this boot of the kernel, which its namespaces share, or "" where there is none."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def now() -> str:
    """Return the time in UTC, as it is written for people."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
