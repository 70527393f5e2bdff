"""The table of `archlab kernels`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from archlab.ops.triton.report import KernelReport


def table(rows: Iterator[KernelReport]) -> Table:
    """Return the kernels as a table for a terminal."""
    title = "registers a thread / spilled / shared KiB; bytes at a real size; the least time of an H100"
    shown = Table("kernels", "GB", "of least", "H100 us", "bound by", box=None, title=title, title_justify="left")
    for index, row in enumerate(rows):
        if not index:
            for target in row.resources:
                shown.add_column(target, justify="right")
        shown.add_row(*_cells(row))
    return shown


def _cells(row: KernelReport) -> Iterator[str]:
    yield row.name
    yield f"{row.bytes_moved / 1e9:.3f}"
    yield f"{row.bytes_moved / row.min_bytes:.2f}"
    yield f"{row.seconds * 1e6:.0f}"
    yield "memory" if row.memory_s >= row.arithmetic_s else "arithmetic"
    for needs in row.resources.values():
        yield "\n".join(f"{one.registers}/{one.spills}/{one.shared / 1024:.0f}" for one in needs)
