"""The progress of a search: a bar for the running trial, a line for each finished one, and the summary."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from archlab.cli.choice_tables import print_choices
from archlab.cli.live import say
from archlab.cli.progress_lines import format_number, progress_lines, run_line, summary_line
from archlab.cli.run_bars import ManyRunsBar, RunBar
from archlab.cli.terminal import foreign
from archlab.reporting.format import brief, format_metrics, format_validation
from archlab.reporting.report import report
from archlab.reporting.search_data import Run, SearchData, read_search, short_names
from archlab.searching.results.against_baseline import is_worse_than_baseline
from archlab.searching.results.progress import BASELINE
from archlab.searching.results.shown_values import mark_gaps
from archlab.searching.results.summary import SearchSummary, TrialSummary
from archlab.searching.run import SearchResult, join_search
from archlab.searching.space.search_space import Space
from archlab.searching.study.study import PAUSED
from archlab.searching.trials.callbacks import SearchCallback
from archlab.text import shell_path, shell_quote
from archlab.training.callbacks import Callback
from archlab.training.progress import Progress, RunProgress


class SearchProgressBar(ManyRunsBar, SearchCallback):
    """Show each run of a search as a bar, and its result as a line."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self.short: dict[str, str] = {}
        self.progress = Progress("search", "")
        self.read: Callable[[], Progress] | None = None  # `bars` are by trial, or the baseline

    def draw(self, width: int) -> Sequence[Text]:
        """Return the live lines: the search as a whole, then every run that is in flight."""
        own = [bar.run for bar in self.bars.values()]
        lines = progress_lines(_with_own_runs(self.progress, own), width) if self.progress.name else []
        return [*lines, *([run_line(self.task, width)] if self.task else [])]

    def on_search(self, space: Space, done: int, total: int) -> None:
        """Print the space, the varied knobs and the number of finished trials."""
        self.short = short_names([*space.varied, *(space.inner.domains if space.inner else ())])
        finished = f"; {done} done" if done else ""
        over = foreign(f": {total} trials over {', '.join(self.short.values())}{finished}")
        self.print(Text.assemble(foreign(space.name, "bold"), over))

    def on_study(self, read: Callable[[], Progress]) -> None:
        """Show the search as a whole from now on."""
        self.read = read
        self.refresh()

    def refresh(self) -> None:
        """Read how far all workers of the search have come."""
        if self.read is not None:
            self.progress = self.read()
            super().refresh()

    def on_run(self, label: str, values: Mapping[str, object]) -> Callback:
        """Show the training of one run under its label."""
        bar = RunBar(self, label)
        self.bars[_trial_of(label)] = bar
        text = "  ".join(
            f"{self.short.get(path, path)}={brief(mark_gaps(path, value))}" for path, value in values.items()
        )
        self.print(Text.assemble(foreign(bar.label, "cyan"), foreign(f"  {text}" if text else "")))
        return bar

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        """Print the state, metrics and reason of a finished run, and where there are no live lines, how far all is."""
        self.bars.pop(label, None)
        color = {"complete": "green", "pruned": "yellow", PAUSED: "yellow"}.get(state, "red")
        details = "".join(f"  {part}" for part in (format_validation(metrics), reason) if part)
        self.print(Text.assemble(foreign(label, "cyan"), "  ", (state, color), foreign(details)))
        self.refresh()
        self.progress = replace(self.progress, running=_without(self.progress, label))
        self.lines.update()
        if not self.is_live and self.read is not None:
            self.print(summary_line(self.progress))

    def on_wait(self) -> None:
        """Show how far the workers have come."""
        self.lines.start()
        self.refresh()

    def on_final_eval(self, label: str, done: int, total: int | None) -> None:
        """Show how far the best trial or the baseline is evaluated on the whole validation split."""
        self.progress = replace(self.progress, seconds_left=None, running=())
        self.show_task(f"whole validation split: {label}", done, total)


def _with_own_runs(progress: Progress, own: Sequence[RunProgress]) -> Progress:
    """Return a search's progress with the runs of this process, of which its callbacks know more than their files."""
    if not own:
        return progress
    others = progress
    for run in own:
        others = replace(others, running=_without(others, run.label))
    running = (*others.running, *own)
    num_running = sum(run.state != "stopped" and run.label != BASELINE for run in running)
    return replace(progress, running=running, counts={**progress.counts, "running": num_running})


def _trial_of(label: str) -> str:
    """Return the trial that the label of a run is of."""
    return label.partition(",")[0]


def _without(progress: Progress, label: str) -> tuple[RunProgress, ...]:
    """Return the description of a running task without its trial and run."""
    return tuple(run for run in progress.running if _trial_of(run.label) != _trial_of(label))


def work_on_search(console: Console, space: Space, folder: Path) -> None:
    """Be one worker of a search; the last one to leave writes the report and prints the summary."""
    with SearchProgressBar(console) as progress:
        result = join_search(space, folder, [progress])
    if result is not None:
        report(folder)
        print_summary(console, result)


def print_summary(console: Console, result: SearchResult) -> None:
    """Print the table of trials, the best trial, the files of the search and the commands to try next."""
    data = read_search(result.folder)
    console.print(_trials(data))
    print_choices(console, data)
    best = result.summary.best_trial
    if best is None:
        why = "no trial is complete; the reasons are in"
        console.print(f"{why} {result.folder / 'report.html'}", highlight=False, soft_wrap=True)
        return
    if front := _front(data, result.summary):
        beaten = " and ".join(result.summary.objectives)
        say(console, f"Pareto set: {_count(front.row_count, 'trial')} that no other one beats in {beaten}")
        console.print(front)
    say(console, _headline(result.summary, best))
    console.print(_files(result), highlight=False, soft_wrap=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _trials(data: SearchData) -> Table:
    table = Table(title=foreign(f"{data.name}: trials"), title_justify="left", box=None, header_style="bold")
    short = short_names(data.shown_paths)
    for name in ("run", "state", *short.values()):
        table.add_column(foreign(name), overflow="fold")
    metric = "val_bpb" if "val_bpb" in data.baseline.metrics else data.space.objective
    table.add_column(foreign("bits/byte" if metric == "val_bpb" else metric), justify="right")
    for run in [data.baseline, *data.trials]:
        best = run.name == str(data.best_trial)
        table.add_row(*_row(run, short, metric), style="bold green" if best else "")
    return table


def _row(run: Run, short: Mapping[str, str], metric: str) -> list[Text]:
    shown = [brief(run.values[path]) if path in run.values else "" for path in short]
    reached = f"{run.metrics[metric]:.3f}" if metric in run.metrics else ""
    return [foreign(cell) for cell in (run.name, run.state, *shown, reached)]


def _front(data: SearchData, summary: SearchSummary) -> Table | None:
    """Return the Pareto set, by the first objective, where there are several."""
    trials = {run.name: run for run in data.trials if run.name in map(str, summary.pareto)}
    if not trials:
        return None
    names = list(summary.objectives)
    table = Table("trial", box=None, header_style="bold")
    for name in names:
        table.add_column(foreign(name), justify="right")
    sign = -1 if summary.objectives[names[0]] == "maximize" else 1
    for run in sorted(trials.values(), key=lambda one: sign * one.metrics.get(names[0], math.inf)):
        values = [format_number(name, run.metrics[name]) if name in run.metrics else "" for name in names]
        table.add_row(*map(foreign, (run.name, *values)))
    return table


def _headline(summary: SearchSummary, best: TrialSummary) -> Text:
    lines = [f", {format_metrics(best.validation)} on the whole validation split"]
    if summary.baseline.validation:
        lines.append(f"baseline at the same budget: {format_metrics(summary.baseline.validation)}")
    if is_worse_than_baseline(summary):
        lines.append("no trial is better than the baseline, which is the model to take")
    sizes = ", ".join(f"{name} {bits:.3f}" for name, bits in summary.compressors.items())
    if sizes:
        lines.append(f"whole-file compressors at their best setting, on the same text: {sizes}")
    return Text.assemble((f"best: trial {best.trial}", "bold"), Text("\n").join(map(foreign, lines)))


def _train_on(folder: Path) -> str:
    """Return the best trial's experiment, with the overrides by which a run begins with its weights and is longer."""
    best = json.dumps(str(folder / "best"), ensure_ascii=False)
    start = shell_quote(f"train.start_from={{checkpoint: {best}}}")
    return f"{shell_path(folder / 'best/experiment.yaml')} train.steps=2000 {start}"


def _files(result: SearchResult) -> Text:
    folder = result.folder
    lines = [
        f"report  {folder / 'report.html'}",
        f"model   {folder / 'best'}",
        f"trials  {folder / 'trials'}: experiment.yaml and metrics.jsonl of each",
        f"study   {folder / 'study.db'}, for Optuna",
        "next",
        f'  archlab generate {shell_path(folder / "best")} --prompt "def "',
        f"  archlab train {_train_on(folder)} --out runs/longer",
        f"  archlab export {shell_path(folder / 'best')} --out {shell_path(folder / 'standalone')}",
    ]
    return Text("\n").join(map(foreign, lines))
