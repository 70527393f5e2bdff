"""The table of `archlab plan`: model, memory, time, budget and layout of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from archlab.cli.terminal import foreign
from archlab.runtime.memory import format_bytes

if TYPE_CHECKING:
    from archlab.planning.plan import Plan

_MIN_SHARE = 0.001  # of the parameters: smaller parts are summed


def plan_table(plan: Plan) -> Table:
    """Return a plan as a terminal table of at most 80 columns."""
    title = foreign(f"{plan.name} on {f'{plan.devices:,} x ' if plan.devices > 1 else ''}{plan.device}", "bold")
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), width=80, title=title, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for group, rows in (
        ("model", _model(plan)),
        ("memory of a device", _memory(plan)),
        ("time of an update", _time(plan)),
        ("run", _run(plan)),
    ):
        table.add_row(Text(group, "bold"))
        for name, figure, remark in rows:
            table.add_row(foreign(f"  {name}"), figure, foreign(remark, "dim"))
    return table


def _model(plan: Plan) -> Iterator[tuple[str, str, str]]:
    yield "parameters", format_count(plan.params), f"{plan.params:,}"
    yield "without embeddings", format_count(plan.params_non_embedding), ""
    if plan.params_active < plan.params:
        yield "active parameters", format_count(plan.params_active), "those that a token uses"
    parts = sorted(plan.params_by_part.items(), key=lambda part: -part[1])
    small = sum(count for _, count in parts if count < _MIN_SHARE * plan.params)
    for part, count in [*(p for p in parts if p[1] >= _MIN_SHARE * plan.params), ("other", small)]:
        if count:
            yield f"  {part}", format_count(count), f"{count / plan.params:.1%}"
    yield "FLOPs per token", format_count(plan.flops_per_token), "forward and backward, counted"
    yield "  forward", format_count(plan.flops_per_token_forward), ""
    yield "bytes moved per token", format_bytes(plan.bytes_per_token), "in eager mode"
    largest = "" if plan.max_state_bytes == plan.state_bytes else f"at most {format_bytes(plan.max_state_bytes)}"
    yield "state of a stream", format_bytes(plan.state_bytes), largest


def _memory(plan: Plan) -> Iterator[tuple[str, str, str]]:
    remarks = {
        "gathered": "blocks that FSDP has whole at a time",
        "context": "the process itself",
        "communication": "buffers of collectives",
        "allocator": "lost to fragmentation",
    }
    for term, size in asdict(plan.memory).items():
        if size:
            yield term, format_bytes(size), remarks.get(term, "")
    fits = "fits" if plan.fits else "does not fit"
    yield "total", format_bytes(plan.memory_per_device), f"{fits} {format_bytes(plan.device_memory)}"


def _time(plan: Plan) -> Iterator[tuple[str, str, str]]:
    remarks = {
        "compute": "bound by arithmetic",
        "memory": "bound by bandwidth",
        "launch": "overhead of eager operations",
        "communication": "not hidden behind computing",
    }
    for term, seconds in asdict(plan.time).items():
        if seconds:
            yield term, format_seconds(seconds), remarks.get(term, "")
    tokens = f"{plan.tokens_per_update:,} tokens"
    yield "total", format_seconds(plan.seconds_per_update), tokens


def _run(plan: Plan) -> Iterator[tuple[str, str, str]]:
    of_each = f"{plan.tokens_per_s / plan.devices:,.0f} on each device" if plan.devices > 1 else ""
    yield "tokens/s", f"{plan.tokens_per_s:,.0f}", of_each
    yield "MFU", f"{plan.mfu:.1%}", plan.mfu_source
    yield "precision", plan.precision, f"compile: {plan.compile}"
    yield "tokens", format_count(plan.tokens), ""
    yield "duration", format_days(plan.days), f"{plan.device_hours:,.4g} device-hours"
    yield "micro-batches", f"{plan.accumulate:,}", f"of {plan.micro_batch:,} x {plan.context:,} tokens on a device"
    yield "checkpoint", format_bytes(plan.checkpoint_bytes), "weights and optimizer state"


def layout_lines(plan: Plan) -> Iterator[str]:
    """Yield lines about the plan's layout, with its YAML section ready to paste."""
    if not plan.fits:
        enough = f"{plan.enough_devices:,} devices would do" if plan.enough_devices else "no number of devices would do"
        least = "the layout of least memory" if plan.proposed else "the experiment's layout"
        yield f"does not fit: {least} takes {format_bytes(plan.memory_per_device)} of each device; {enough}"
    if plan.devices > 1:
        yield f"layout, {'proposed: paste it into the experiment' if plan.proposed else 'of the experiment'}"
        yield f"  {layout_yaml(plan)}"
    yield from plan.notes


def layout_yaml(plan: Plan) -> str:
    """Return the plan's layout as the section of an experiment, in one line of YAML."""
    return f"parallel: {{{', '.join(f'{axis}: {size}' for axis, size in plan.layout.to_dict().items())}}}"


def format_count(count: float) -> str:
    """Format a number with a unit, as in "7.39 G"."""
    for unit in ("", "K", "M", "G", "T"):
        if count < 1000:
            return f"{count:.3g} {unit}".rstrip()
        count /= 1000
    return f"{count:.4g} P"


def format_seconds(seconds: float) -> str:
    """Format a duration of milliseconds or seconds."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"


def format_days(days: float) -> str:
    """Format a duration in the unit that suits it."""
    if days >= 1:
        return f"{days:,.3g} days"
    return f"{24 * days:.3g} hours" if days >= 1 / 24 else f"{24 * 60 * days:.3g} minutes"
