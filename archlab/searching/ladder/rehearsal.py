"""The rehearsal of a ladder, as a space that says so of itself wherever its directory is read again."""

from __future__ import annotations

from dataclasses import replace

from archlab.searching.space.search_space import Space


def as_rehearsal(space: Space) -> Space:
    """Return the space of a ladder's rehearsal: the same rungs and candidates, in small models."""
    if space.data.get("rehearsal"):
        return space
    return replace(space, name=f"{space.name}-rehearsal", data={**space.data, "rehearsal": True})
