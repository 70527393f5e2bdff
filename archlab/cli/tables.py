"""The tables of `archlab bench`, `archlab kernels` and `archlab profile`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from archlab.text import visible

if TYPE_CHECKING:
    from archlab.ops.benchmark import BenchmarkResult
    from archlab.ops.triton.report import KernelReport
    from archlab.training.profiler import Profile


# Columns of known widths, 78 in all: a row is printed as soon as it is there.
_NAME, _BACKEND = 30, 6
_NUMBERS = {"time": 8, "eager": 8, "compiled": 9, "roofline": 9, "speedup": 8}


def benchmark_heading() -> str:
    """Return the title and the heading of the rows of `archlab bench`."""
    from archlab.ops.benchmark_cases import B, D, T

    title = f"ms, float32, {B} x {T} tokens of {D} channels; eager and compiled: the reference"
    about = "roofline: memory reads every input and writes the output"
    return "\n".join((title, about, _benchmark_line("operation", "by", list(_NUMBERS))))


def benchmark_row(row: BenchmarkResult) -> str:
    """Return the row of an operation's times."""
    times = ["" if s is None else f"{1000 * s:.2f}" for s in (row.seconds, row.eager_s, row.compiled_s, row.roofline_s)]
    numbers = [*times, "" if row.speedup is None else f"{row.speedup:.1f}"]
    return _benchmark_line(row.name.replace("forward and back", "forward+back"), row.backend, numbers)


def _benchmark_line(name: str, backend: str, numbers: Sequence[str]) -> str:
    cells = (f"{number:>{width}}" for number, width in zip(numbers, _NUMBERS.values(), strict=True))
    return f"{name:<{_NAME}} {backend:<{_BACKEND}}{''.join(cells)}"


def kernels_table(rows: Iterator[KernelReport]) -> Table:
    """Return a table of Triton kernels, their resources on each GPU and their memory traffic."""
    title = "registers per thread / spills / shared KiB; traffic at a real size; the roofline time of an H100"
    table = Table("kernels", "GB", "of minimum", "H100 us", "bound by", box=None, title=title, title_justify="left")
    for index, row in enumerate(rows):
        if not index:
            for target in row.resources:
                table.add_column(target, justify="right")
        table.add_row(*_kernel_cells(row))
    return table


def _kernel_cells(row: KernelReport) -> Iterator[str]:
    yield row.name
    yield f"{row.bytes_moved / 1e9:.3f}"
    yield f"{row.bytes_moved / row.min_bytes:.2f}"
    yield f"{row.seconds * 1e6:.0f}"
    yield "memory" if row.memory_s >= row.arithmetic_s else "arithmetic"
    for kernels in row.resources.values():
        yield "\n".join(f"{kernel.registers}/{kernel.spills}/{kernel.shared / 1024:.0f}" for kernel in kernels)


def profile_table(name: str, profile: Profile) -> Table:
    """Return a table of the time of an optimizer step by kind of operation."""
    speed = profile.tokens / profile.seconds
    name = visible(name)
    title = f"{name}: {1000 * profile.seconds:,.0f} ms per step of {profile.tokens:,} tokens, {speed:,.0f} tokens/s"
    table = Table("operations", box=None, title=title, title_justify="left", min_width=len(title))
    for heading in ("ms per step", "share", "calls", "GFLOP/s"):
        table.add_column(heading, justify="right")
    total = sum(part.seconds for part in profile.parts)
    for part in profile.parts:
        rate = f"{part.flops / part.seconds / 1e9:,.0f}" if part.flops else ""
        calls = f"{part.calls:,.0f}" if part.calls else ""
        table.add_row(part.name, f"{1000 * part.seconds:,.1f}", f"{part.seconds / total:.0%}", calls, rate)
    return table
