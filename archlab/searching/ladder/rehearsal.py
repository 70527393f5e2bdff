"""The rehearsal of a ladder: a space that says so of itself wherever its directory is read again, and its time."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from archlab.searching.space.search_space import Space

REHEARSAL_S = 12 * 60  # after which a rehearsal leaves runs out, so that it ends within 15 minutes whatever the file


def as_rehearsal(space: Space) -> Space:
    """Return the space of a ladder's rehearsal: the same rungs and candidates, in small models."""
    if space.data.get("rehearsal"):
        return space
    return replace(space, name=f"{space.name}-rehearsal", data={**space.data, "rehearsal": True})


class RehearsalClock:
    """Measures whether a rehearsal has used up the time of its rungs; other ladders have no limit."""

    def __init__(self, rungs: int, *, is_rehearsal: bool) -> None:
        self.rungs, self.is_rehearsal, self.start = rungs, is_rehearsal, time.monotonic()

    def is_late(self, rung: int) -> bool:
        """Return whether the time of the rungs up to this one is used up."""
        return time.monotonic() > self._end(rung)

    def planning_end(self, rung: int) -> float:
        """Return when the planning of a rung has to end, by time.monotonic."""
        now = time.monotonic()
        return now + (self._end(rung) - now) / 2

    def _end(self, rung: int) -> float:
        """Return when a rung has to end: the first, with the most candidates, takes half of the time."""
        if not self.is_rehearsal:
            return math.inf
        return self.start + REHEARSAL_S * (0.5 + 0.5 * (rung - 1) / max(1, self.rungs - 1))
