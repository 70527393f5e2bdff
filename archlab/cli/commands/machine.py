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
    from archlab.cli.tables import benchmark_table
    from archlab.ops.benchmark import benchmark

    make_console().print(benchmark_table(benchmark(operation)))


@click.command()
@click.argument("operation", required=False)
def kernels(operation: str | None) -> None:
    """Compile the Triton kernels for several GPUs, present or not, and print their resources.

    OPERATION is one of those with kernels; the default is all.
    """
    from archlab.cli.tables import kernels_table
    from archlab.ops.triton.report import compile_kernels

    make_console().print(kernels_table(compile_kernels(operation)))


COMMANDS = (doctor, bench, kernels)
