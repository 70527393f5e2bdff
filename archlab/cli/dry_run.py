"""The estimate of `archlab search --dry-run`: lines for a search, a table of rungs for a ladder."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from archlab import api
from archlab.cli.ladder_progress import is_ladder
from archlab.cli.terminal import SafeConsole, foreign
from archlab.reporting.format import format_amount
from archlab.runtime.memory import format_bytes
from archlab.searching.ladder.dry_run import TARGET, LadderDryRun, RungEstimate
from archlab.searching.results.dry_run import DryRun
from archlab.text import visible

_MAX_NAMED = 5
_NOTHING = "Nothing was started or written."


def estimate_search(
    console: Console, name: str, overrides: Sequence[str], *, trials: int | None, device: str, devices: int
) -> None:
    """Print the estimated cost of a search or a ladder."""
    if not is_ladder(name, overrides, rehearse=False, trials=trials):
        _print_search(console, api.dry_run(name, overrides, trials=trials, device=device, devices=devices))
        return
    if trials is not None:
        overrides = [*overrides, f"study.trials={trials}"]
    with SafeConsole(stderr=True).status("planning") as status:
        made = api.dry_run_ladder(name, overrides, device=device, devices=devices, tell=status.update)
    _print_ladder(console, made)


def _print_search(console: Console, estimate: DryRun) -> None:
    lines = [
        f"trials        {estimate.trials:,}, of {estimate.runs:,} training runs with the baseline",
        *(f"  round {index}     {c} choices, {t} trials each" for index, (c, t) in enumerate(estimate.rounds, 1)),
        f"tokens        {estimate.tokens:,.0f}",
        f"hours         {_hours(estimate.hours)} one after the other; {_hours(estimate.slowest_hours)} if all are slow",
        f"device-hours  {_hours(estimate.device_hours)} on {estimate.devices} x {estimate.device}",
        f"gigabytes     {estimate.gigabytes:.3g}",
        f"planned from  {estimate.sampled} candidates" + _infeasible(estimate),
        *(f"  not from    {visible(problem)}" for problem in estimate.problems[:_MAX_NAMED]),
        f"Pruning makes it less. {_NOTHING}",
    ]
    _print_lines(console, lines)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 1000 else f"{hours:.3g}" if hours >= 0.1 else f"{hours:.2g}"


def _infeasible(estimate: DryRun) -> str:
    return f"; {estimate.infeasible} others break a constraint or cannot be built" if estimate.infeasible else ""


def _print_ladder(console: Console, made: LadderDryRun) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("rung", "params", "tokens", "models", "runs", "devices", "memory", "hours", "device-h", "disk"):
        table.add_column(head, justify="right")
    for rung in made.rungs:
        table.add_row(*map(foreign, _row(rung)))
    console.print(table)
    _print_lines(console, _ladder_lines(made))


def _row(rung: RungEstimate) -> tuple[str, ...]:
    return (
        rung.name,
        format_amount(rung.params),
        format_amount(rung.tokens),
        f"{rung.candidates:,}",
        f"{rung.runs:,}",
        f"{rung.devices:,}",
        format_bytes(rung.memory),
        _hours(rung.hours),
        _hours(rung.device_hours),
        format_bytes(rung.gigabytes * 1e9),
    )


def _ladder_lines(made: LadderDryRun) -> list[str]:
    rungs = [rung for rung in made.rungs if rung.name != TARGET]
    small = [rung.name for rung in made.rungs if not rung.fits]
    total = f"{_hours(made.hours)} hours, {_hours(made.device_hours)} of one {made.device}"
    return [
        f"all rungs  {total}, {format_bytes(made.gigabytes * 1e9)}; one run after the other",
        f"slowest    {', '.join(dict.fromkeys(rung.slowest for rung in rungs))}",
        f"planned    {', '.join(made.planned)}; the others are taken to be like their mean",
        *([f"no room    {', '.join(small)}: more memory than one of {made.device} has"] if small else []),
        *([f"infeasible {len(made.infeasible)} candidates, which break a constraint"] if made.infeasible else []),
        _NOTHING,
    ]


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
