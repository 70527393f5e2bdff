"""Commands on this machine: doctor, bench, kernels."""

from __future__ import annotations

import click

from archlab.cli.console import make_console


@click.command()
def doctor() -> None:
    """Check this machine and the installation for problems that make archlab slow or fail."""
    from archlab.cli.doctor import diagnose, render

    make_console().print(render(diagnose()))


@click.command()
@click.argument("operation", required=False)
def bench(operation: str | None) -> None:
    """Benchmark operations against their reference implementations and the roofline of memory.

    OPERATION is one of them; the default is all.
    """
    from archlab.cli.tables import benchmark_heading, benchmark_row
    from archlab.cli.task_bar import task_bar
    from archlab.ops.benchmark import benchmark, count_benchmarks

    total, rows = count_benchmarks(operation), benchmark(operation)
    with task_bar() as bar:
        bar.show_task("measuring", 0, total)
        for done, row in enumerate(rows, 1):
            with bar.lines.hide():
                click.echo(benchmark_row(row) if done > 1 else f"{benchmark_heading()}\n{benchmark_row(row)}")
            bar.show_task("measuring", done, total)


@click.command()
@click.argument("operation", required=False)
def kernels(operation: str | None) -> None:
    """Compile the Triton kernels for several GPUs, present or not, and print their resources.

    OPERATION is one of those with kernels; the default is all.
    """
    from archlab.cli.tables import kernels_table
    from archlab.cli.task_bar import task_bar
    from archlab.ops.triton.report import compile_kernels

    with task_bar() as bar:
        rows = []
        for row in compile_kernels(operation):
            rows.append(row)
            bar.show_task(f"compiling kernels, {row.name} is done", len(rows), None)
    make_console().print(kernels_table(iter(rows)))


COMMANDS = (doctor, bench, kernels)
