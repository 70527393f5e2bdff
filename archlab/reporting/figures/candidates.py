"""The candidates of a ladder: one color each, whatever the figure."""

from __future__ import annotations

from archlab.searching.ladder.summary import LadderSummary

_COLORS = 8


def candidate_kinds(summary: LadderSummary) -> dict[str, str]:
    """Return the CSS class of each candidate: the best eight have a color of their own, the others share one."""
    listed = [
        *summary.ranking,
        *(name for rung in reversed(summary.rungs) for name in (*rung.losses, *rung.candidates)),
    ]
    return {name: f"c{min(place, _COLORS)}" for place, name in enumerate(dict.fromkeys(listed))}
