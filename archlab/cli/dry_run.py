"""The estimate of `archlab search --dry-run`, as lines."""

from __future__ import annotations

from rich.console import Console

from archlab.searching.results.dry_run import DryRun


def print_dry_run(console: Console, estimate: DryRun) -> None:
    """Print what a search will take."""
    lines = [
        f"trials        {estimate.trials:,}, of {estimate.runs:,} training runs with the baseline",
        *(f"  round {index}     {c} choices, {t} trials each" for index, (c, t) in enumerate(estimate.rounds, 1)),
        f"tokens        {estimate.tokens:,.0f}",
        f"hours         {_hours(estimate.hours)} one after the other; {_hours(estimate.slowest_hours)} if all are slow",
        f"device-hours  {_hours(estimate.device_hours)} on {estimate.devices} x {estimate.device}",
        f"gigabytes     {estimate.gigabytes:.3g}",
        f"planned from  {estimate.sampled} candidates" + _infeasible(estimate),
        "Pruning makes it less. Nothing was started or written.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _hours(hours: float) -> str:
    return f"{hours:.3g}" if hours >= 0.1 else f"{hours:.2g}"


def _infeasible(estimate: DryRun) -> str:
    return f"; {estimate.infeasible} others break a constraint or cannot be built" if estimate.infeasible else ""
