"""The table of `archlab profile`."""

from __future__ import annotations

from rich.table import Table

from archlab.training.profiler import Profile


def table(name: str, found: Profile) -> Table:
    """Return a profile as a table for a terminal."""
    speed = found.tokens / found.seconds
    title = f"{name}: {1000 * found.seconds:,.0f} ms an update of {found.tokens:,} tokens, {speed:,.0f} tokens/s"
    shown = Table("what", box=None, title=title, title_justify="left", min_width=len(title))
    for heading in ("ms an update", "share", "calls", "GFLOP/s"):
        shown.add_column(heading, justify="right")
    whole = sum(part.seconds for part in found.parts)
    for part in found.parts:
        rate = f"{part.flops / part.seconds / 1e9:,.0f}" if part.flops else ""
        calls = f"{part.calls:,.0f}" if part.calls else ""
        shown.add_row(part.name, f"{1000 * part.seconds:,.1f}", f"{part.seconds / whole:.0%}", calls, rate)
    return shown
