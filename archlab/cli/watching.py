"""The screen of `archlab watch`: lines that follow another process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import click
from rich.console import Console
from rich.text import Text

from archlab.cli.live import LiveLines, say
from archlab.cli.progress_lines import progress_lines, run_line, summary_line
from archlab.cli.terminal import foreign
from archlab.training.progress import Progress, WorkerProgress

EVERY_S = 2.0
PLAIN_EVERY_S = 10.0  # where lines are not redrawn, and each one stays
_ADVICE = {
    "run": "continue it with archlab train --resume",
    "trial": "archlab search continues it, unless it was pruned",
    "search": "run the same archlab search to continue it",
    "ladder": "run the same archlab search to continue it",
}


def watch_lines(progress: Progress, width: int) -> list[Text]:
    """Return lines about running work, followed by the last finished ones."""
    lines = progress_lines(progress, width)
    lines += [_worker_line(worker) for worker in progress.workers]
    lines += [run_line(run, width) for run in reversed(progress.recent)]
    for trial in progress.front:
        values = ", ".join(f"{name} {value:.6g}" for name, value in trial.values.items())
        lines.append(Text(f"Pareto set: {trial.label}  {values}", overflow="ellipsis", no_wrap=True))
    if progress.state == "stopped":
        lines.append(Text(f"no process works on it; {_ADVICE[progress.kind]}", "dim"))
    return lines


def _worker_line(worker: WorkerProgress) -> Text:
    style = "red" if worker.state in ("died", "ended") else "dim"
    since = f"since {worker.since[:19].replace('T', ' ')} UTC" if worker.since else ""
    parts = (f"worker {worker.host}:{worker.pid}", worker.state, worker.work, since, worker.reason)
    return foreign("  ".join(part for part in parts if part), style)


def show_once(console: Console, read: Callable[[], Progress], *, as_json: bool) -> None:
    """Print the present state."""
    progress = read()
    if as_json:
        click.echo(json.dumps(progress.to_dict()))
    else:
        _print(console, progress)


def follow(console: Console, read: Callable[[], Progress], *, as_json: bool) -> None:
    """Show the state until no process works on it any more, or the user presses Ctrl-C."""
    with suppress(KeyboardInterrupt):
        if as_json:
            for progress in _states(read, EVERY_S):
                click.echo(json.dumps(progress.to_dict()))
        else:
            _draw(console, read)


def _draw(console: Console, read: Callable[[], Progress]) -> None:
    shown: list[Progress] = []
    lines = LiveLines(console, lambda width: watch_lines(shown[-1], width) if shown else ())
    try:
        for progress in _states(read, EVERY_S if lines.is_live else PLAIN_EVERY_S):
            shown[:] = [progress]
            if not lines.is_live:
                console.print(_plain(progress), highlight=False, soft_wrap=True)
            lines.start()
            lines.update()
    finally:
        lines.stop()
    _print(console, shown[-1])


def _states(read: Callable[[], Progress], every_s: float) -> Iterator[Progress]:
    """Yield the state again and again, as long as somebody works on it."""
    while True:
        progress = read()
        yield progress
        if progress.state != "running":
            return
        time.sleep(every_s)


def _plain(progress: Progress) -> str:
    runs: Sequence[str] = [run_line(run, 10_000).plain for run in progress.running]
    head = [] if progress.kind in ("run", "trial") else [f"{progress.name}  {summary_line(progress)}"]
    return "\n".join([*head, *(f"  {run}" if head else run for run in runs)])


def _print(console: Console, progress: Progress) -> None:
    for line in watch_lines(progress, console.width):
        say(console, line)
