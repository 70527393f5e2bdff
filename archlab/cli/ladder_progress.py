"""The progress of a ladder, and its summary in tables of 80 columns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from archlab import api
from archlab.cli.options import Workers
from archlab.cli.progress_lines import progress_lines, run_line, summary_line
from archlab.cli.run_bars import ManyRunsBar, RunBar
from archlab.cli.terminal import foreign
from archlab.errors import ArchlabError
from archlab.reporting.ladder_lines import agreement_line, forecast_cells, rung_title, target_lines
from archlab.searching.ladder.callbacks import LadderCallback
from archlab.searching.ladder.config import Ladder, Rung
from archlab.searching.ladder.forecasts import Forecast
from archlab.searching.ladder.run import LadderResult, join_ladder
from archlab.searching.ladder.selection import Decision
from archlab.searching.ladder.summary import LadderSummary, RungSummary, forecast_of
from archlab.searching.ladder.time_left import LadderClock
from archlab.searching.run import find_search
from archlab.searching.space.search_space import Space
from archlab.text import shell_path
from archlab.training.callbacks import Callback
from archlab.training.progress import Progress, Reached

WIDTH = 80


def is_ladder(name: str, overrides: Sequence[str], *, rehearse: bool, trials: int | None) -> bool:
    """Return whether a space has rungs; raise ArchlabError if it has none and is to be rehearsed."""
    space, _ = find_search(name, overrides)
    if rehearse and not space.is_ladder:
        raise ArchlabError(f"{space.source}: has no rungs to rehearse")
    if trials is not None and space.is_ladder and not space.vary:
        raise ArchlabError(f"{space.source}: names its candidates and draws none, so that --trials says nothing")
    return space.is_ladder


def climb(
    console: Console,
    name: str,
    overrides: Sequence[str],
    *,
    out: Path | None,
    rehearse: bool,
    force: bool,
    workers: Workers,
) -> None:
    """Run a ladder and print its summary; raise ArchlabError if it has to continue elsewhere."""
    with LadderProgressBar(console) as progress:
        result = api.run_ladder(
            name, overrides, out=out, rehearse=rehearse, force=force, workers=workers, callbacks=[progress]
        )
    _conclude(console, result)


def work_on_ladder(console: Console, space: Space, folder: Path) -> None:
    """Be one of the workers that a launcher has placed; each that comes to the end writes the same report."""
    with LadderProgressBar(console) as progress:
        result = join_ladder(space, folder, [progress])
    _conclude(console, result)


def _conclude(console: Console, result: LadderResult) -> None:
    api.report(result.folder)
    print_ladder(console, result)
    if result.waiting:
        raise ArchlabError(f"{result.waiting}; train {result.folder / 'launch'} elsewhere, and run this command again")


class LadderProgressBar(ManyRunsBar, LadderCallback):
    """Show each run of a ladder as a bar, and its result as a line."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self.metric = "loss"
        self.progress, self.num_rungs = Progress("ladder", ""), 0
        self.clock: LadderClock | None = None

    def draw(self, width: int) -> Sequence[Text]:
        """Return the live lines: the ladder as a whole, then the runs that are in flight."""
        lines = progress_lines(self._with_own_runs(), width) if self.progress.stage else []
        return [*lines, *([run_line(self.task, width)] if self.task else [])]

    def _with_own_runs(self) -> Progress:
        """Return the progress with the runs of this process, unless others do the work."""
        own = [bar.run for bar in self.bars.values()]
        if not own and self.progress.running:
            return self.progress
        counts = {**self.progress.counts, "running": len(own)}
        return replace(self.progress, running=tuple(own), counts=counts, seconds_left=self._ladder_left())

    def _ladder_left(self) -> float | None:
        if self.clock is None:
            return None
        now = time.monotonic()
        runs = [(bar.label, now - bar.opened, bar.run.seconds_left) for bar in self.bars.values()]
        return self.clock.seconds_left(runs)

    def on_ladder(self, ladder: Ladder, candidates: Sequence[str]) -> None:
        """Print the ladder, and that it is a rehearsal if it is one."""
        self.num_rungs, self.metric, self.clock = len(ladder.rungs), ladder.metric, LadderClock(ladder)
        self.progress = replace(self.progress, name=ladder.space.name)
        what = f": {len(ladder.rungs)} rungs, {len(candidates)} candidates: {', '.join(candidates)}"
        self.print(Text.assemble(foreign(ladder.space.name, "bold"), foreign(what)))
        if ladder.is_rehearsal:
            self.print("REHEARSAL: the models are small, and their losses say nothing about any candidate")

    def on_rung(self, rung: Rung, params: float, done: int, total: int, forecast: Forecast | None) -> None:
        """Print the rung, how many of its runs are done, and its forecast."""
        if self.clock is not None:
            self.clock.begin(rung, done, total)
        stage = f"rung {rung.number} of {self.num_rungs}"
        self.progress = Progress("ladder", self.progress.name, stage=stage, total=total, counts={"complete": done})
        self.print(
            Text.assemble((f"rung {rung.number}", "bold"), f": {params:,.0f} parameters, {total} runs, {done} done")
        )
        if forecast is not None:
            self.print(f"  forecast of {forecast.written}: {', '.join(forecast.ranking)}; by {forecast.method}")

    def on_run(self, label: str) -> Callback:
        """Show the training of one run; its live line leaves out the rung, which the line above has."""
        bar = self.bars[label] = RunBar(self, label, _without_rung(label))
        self.lines.update()
        return bar

    def on_result(self, label: str, loss: float | None, reason: str) -> None:
        """Print the result of a run and, without live lines, the progress of the rung."""
        bar = self.bars.pop(label, None)
        if self.clock is not None:
            seconds = time.monotonic() - bar.opened if bar else 0.0
            self.clock.end(label, seconds, is_measured=bar is not None and loss is not None)
        self._count(_without_rung(label), loss)
        state = ("failed", "red") if loss is None else (f"{loss:.4f}", "green")
        self.print(Text.assemble(foreign(label, "cyan"), "  ", state, foreign(f"  {reason}" if reason else "")))
        self.lines.update()
        if not self.is_live:
            self._print_summary(replace(self.progress, seconds_left=self._ladder_left()))

    def _count(self, name: str, loss: float | None) -> None:
        counts, state = dict(self.progress.counts), "failed" if loss is None else "complete"
        counts[state] = counts.get(state, 0) + 1
        best = self.progress.best
        if loss is not None and (not best or loss < best[0].values[self.metric]):
            best = (Reached(name, {self.metric: loss}),)
        self.progress = replace(self.progress, counts=counts, best=best)

    def on_wait(self, progress: Progress) -> None:
        """Show how far the workers have come that a launcher has placed."""
        has_moved = (progress.stage, progress.done) != (self.progress.stage, self.progress.done)
        self.progress = progress
        self.lines.start()
        self.refresh()
        if not self.is_live and has_moved:
            self._print_summary(progress)

    def _print_summary(self, progress: Progress) -> None:
        self.print(f"{progress.stage}  {summary_line(progress)}")

    def on_decision(self, rung: Rung, decision: Decision) -> None:
        """Print the candidates that continue."""
        self.print(f"rung {rung.number}: continuing: {', '.join(decision.goes_on) or 'none'} (by {decision.by})")


def _without_rung(label: str) -> str:
    return label.partition(": ")[2] or label


def print_ladder(console: Console, result: LadderResult) -> None:
    """Print the rungs with forecasts beside results, the target, the verdict, and the files."""
    summary = result.summary
    narrow = min(console.width, WIDTH)
    for rung in summary.rungs:
        # Above the table, in the width of which its own title would be wrapped.
        console.print(foreign(rung_title(rung), "italic"), width=narrow)
        console.print(_rung_table(rung), width=narrow)
        if line := agreement_line(rung):
            console.print(foreign(line), width=narrow)
        console.print()
    for closing in _format_summary(summary):
        console.print(closing, width=narrow, highlight=False)
    for line in _files(summary, result.folder):
        console.print(foreign(line), highlight=False, soft_wrap=True)  # to be copied


def _rung_table(rung: RungSummary) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("candidate", overflow="fold", max_width=24)
    has_forecast = bool(forecast_of(rung))
    for name in ("loss", *(("forecast", "90 % interval", "error") if has_forecast else ()), "on"):
        table.add_column(name, justify="right")
    goes_on = (rung.decision or {}).get("goes_on") or []
    names = [*rung.losses, *(name for name in rung.candidates if name not in rung.losses)]
    for name in names:
        is_on = isinstance(goes_on, list) and name in goes_on
        measured, *forecast = forecast_cells(rung.losses.get(name), forecast_of(rung).get(name))
        cells = (name, measured, *(forecast if has_forecast else ()), "yes" if is_on else "")
        table.add_row(*map(foreign, cells))
    return table


def _format_summary(summary: LadderSummary) -> Iterator[Text]:
    for line in target_lines(summary):
        yield foreign(line)
    for name, reason in summary.failed.items():
        yield foreign(f"{name} dropped out: {reason}")
    yield foreign(summary.verdict, "bold")


def _files(summary: LadderSummary, folder: Path) -> Iterator[str]:
    yield f"report  {folder / 'report.html'}"
    yield f"data    {folder / 'ladder.json'}, {folder / 'forecasts'}"
    if summary.goes_on and summary.target is not None:
        yield f"launch  archlab train {shell_path(folder / 'launch' / f'{summary.goes_on[0]}.yaml')}"
