"""Output of `archlab train --dry-run`: layout, memory of a device, and the commands that start the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console

from archlab.cli.terminal import foreign
from archlab.planning.dry_run import TrainingDryRun
from archlab.runtime.memory import format_bytes
from archlab.text import shell_quote

_PORT = 29500


def print_dry_run(console: Console, made: TrainingDryRun, arguments: Sequence[str]) -> None:
    """Print a dry run of `archlab train` with these arguments."""
    lines = [*_layout_lines(made), *_memory_lines(made), "launch", *launch_lines(made, arguments)]
    if made.missing_data:
        lines.append(f"data          missing: {made.missing_data}")
    for line in [*lines, "Nothing was started or written."]:
        console.print(foreign(line), highlight=False, soft_wrap=True)


def _layout_lines(made: TrainingDryRun) -> Iterator[str]:
    plan = made.plan
    count = f"{plan.devices:,} x " if plan.devices > 1 else ""
    yield f"{plan.name} on {count}{plan.device}, in {plan.precision}"
    yield "layout        " + ", ".join(
        f"{axis} {size}"
        for axis, size in plan.layout.to_dict().items()
        if size > 1 or (plan.devices == 1 and axis == "replicate")
    )
    own = plan.context // plan.layout.chunk
    times = f", {plan.accumulate:,} times" if plan.accumulate > 1 else ""
    yield f"update        {plan.tokens_per_update:,} tokens; {plan.micro_batch:,} x {own:,} of them on a device{times}"


def _memory_lines(made: TrainingDryRun) -> Iterator[str]:
    yield "memory of a device"
    for term, size in asdict(made.plan.memory).items():
        if size:
            yield f"  {term:<14}{format_bytes(size)}"
    than = "more" if made.difference < 0 else "less"
    tracked = f"torch's tracker in an update without memory: {format_bytes(made.tracked_bytes)}"
    difference = f"{abs(made.tracked_bytes / made.planned_bytes - 1):.1%} {than}"
    yield f"  {'tensors':<14}{format_bytes(made.planned_bytes)} planned; {tracked}, {difference}"
    if not made.is_close:
        yield "  the plan is more than 10 % off: go by the larger of the two"
    fits = "fits" if made.fits else "does not fit"
    yield f"  {'total':<14}{format_bytes(made.memory)}: {fits} {format_bytes(made.plan.device_memory)}"
    if not made.fits and made.plan.enough_devices:
        yield f"  {made.plan.enough_devices:,} devices would do: archlab plan proposes their layout"


def launch_lines(made: TrainingDryRun, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the commands that start a run: archlab's own on one machine, torchrun's and Slurm's."""
    nodes, each = made.nodes
    run = " ".join(["archlab", "train", *map(shell_quote, arguments)])
    gpus = f" --gpus-per-node {each}" if made.device.kind == "gpu" else ""
    if nodes == 1:
        yield f"  {run}" + (f" --processes {each}" if each > 1 else "")
    if made.plan.devices == 1:
        return
    where = "--standalone" if nodes == 1 else f'--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint "$HOST:{_PORT}"'
    note = "" if nodes == 1 else "on each machine, HOST being the name of one of them:"
    if note:
        yield f"  # {note}"
    yield f"  torchrun {where} --nproc-per-node {each} -m {run}"
    if nodes > 1:
        yield "  # with Slurm, once:"
    yield f"  srun --nodes {nodes} --ntasks-per-node {each}{gpus} --kill-on-bad-exit=1 python -m {run}"
