"""Who holds a lock, asked without taking it: a reader that took it, however shortly, would turn a worker away."""

from __future__ import annotations

from pathlib import Path

_LOCKS = Path("/proc/locks")


def holder(file: Path) -> int | None:
    """Return the process that holds the lock on a file, 0 if it is unknown here, or None if it is free."""
    try:
        inode = file.stat().st_ino
    except OSError:
        return None
    try:
        lines = _LOCKS.read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS has no such file
        return 0
    # "1: FLOCK  ADVISORY  WRITE 32583 fe:00:2328805 0 EOF", and "->" before FLOCK for one that waits. The device is
    # left out: that of an overlay differs from that of `stat`.
    for words in map(str.split, lines):
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            return max(int(words[4]), 0)
    return None
