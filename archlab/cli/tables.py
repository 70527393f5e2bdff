"""Tables of measurements."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from archlab.ops.benchmark import BenchmarkResult
from archlab.ops.benchmark_cases import B, D, T


def table(rows: Iterator[BenchmarkResult]) -> Table:
    """Return what was measured as a table for a terminal."""
    title = f"ms, float32, {B} x {T} tokens of {D} channels; least: memory reads every input, writes the output"
    shown = Table("operation", "backend", box=None, title=title, title_justify="left")
    for heading in ("its time", "plain, eager", "plain, compiled", "least", "speedup"):
        shown.add_column(heading, justify="right")
    for row in rows:
        times = (row.seconds, row.eager_s, row.compiled_s, row.roofline_s)
        cells = ["" if s is None else f"{1000 * s:.2f}" for s in times]
        shown.add_row(row.name, row.backend, *cells, "" if row.speedup is None else f"{row.speedup:.1f}")
    return shown
