"""The progress of a search: a bar for the running trial, a line for each finished one, and the summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from archlab.cli.choice_tables import print_choices
from archlab.cli.progress import ProgressBar
from archlab.cli.terminal import foreign
from archlab.reporting.data import Run, SearchData, read_search, short_names
from archlab.reporting.format import brief, format_metrics, format_validation
from archlab.searching.results.shown_values import mark_gaps
from archlab.searching.results.summary import SearchSummary, TrialSummary
from archlab.searching.run import SearchResult
from archlab.searching.space.search_space import Space
from archlab.searching.trials.callbacks import SearchCallback
from archlab.text import shell_path
from archlab.training.callbacks import Callback


class SearchProgressBar(ProgressBar, SearchCallback):
    """Show each run of a search as a bar, and its result as a line."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self.done, self.total = 0, 0
        self.short: dict[str, str] = {}

    def on_search(self, space: Space, done: int, total: int) -> None:
        """Print the space, the varied knobs and the number of finished trials."""
        self.done, self.total = done, total
        self.short = short_names([*space.varied, *(space.inner.domains if space.inner else ())])
        finished = f"; {done} done" if done else ""
        over = foreign(f": {total} trials over {', '.join(self.short.values())}{finished}")
        self.print(Text.assemble(foreign(space.name, "bold"), over))

    def on_run(self, label: str, values: Mapping[str, Any]) -> Callback:
        """Show the training of one run under its label."""
        self.label = f"{label} ({self.done + 1} of {self.total})" if values else label
        text = "  ".join(
            f"{self.short.get(path, path)}={brief(mark_gaps(path, value))}" for path, value in values.items()
        )
        self.print(Text.assemble(foreign(self.label, "cyan"), "  ", foreign(text)))
        return self

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        """Print the state, metrics and reason of a finished run."""
        name = label if label == "baseline" else f"{label} ({self.done + 1} of {self.total})"
        self.done += label != "baseline"
        color = {"complete": "green", "pruned": "yellow"}.get(state, "red")
        details = "".join(f"  {part}" for part in (format_validation(metrics), reason) if part)
        self.print(Text.assemble(foreign(name, "cyan"), "  ", (state, color), foreign(details)))


def print_summary(console: Console, result: SearchResult) -> None:
    """Print the table of trials, the best trial, the files of the search and the commands to try next."""
    data = read_search(result.folder)
    console.print(_trials(data))
    print_choices(console, data)
    best = result.summary.best_trial
    if best is None:
        console.print("no trial is complete; the reasons are in the table")
        return
    console.print(_headline(result.summary, best), highlight=False, soft_wrap=True)
    console.print(_files(result), highlight=False, soft_wrap=True)


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


def _headline(summary: SearchSummary, best: TrialSummary) -> Text:
    lines = [f", {format_metrics(best.validation)} on the whole validation split"]
    if summary.baseline.validation:
        lines.append(f"baseline at the same budget: {format_metrics(summary.baseline.validation)}")
    sizes = ", ".join(f"{name} {bits:.3f}" for name, bits in summary.compressors.items())
    if sizes:
        lines.append(f"whole-file compressors at their best setting, on the same text: {sizes}")
    return Text.assemble((f"best: trial {best.trial}", "bold"), Text("\n").join(map(foreign, lines)))


def _files(result: SearchResult) -> Text:
    folder = result.folder
    lines = [
        f"report  {folder / 'report.html'}",
        f"model   {folder / 'best'}",
        f"trials  {folder / 'trials'}: experiment.yaml and metrics.jsonl of each",
        f"study   {folder / 'study.db'}, for Optuna",
        "next",
        f'  archlab generate {shell_path(folder / "best")} --prompt "def "',
        f"  archlab train {shell_path(folder / 'best/experiment.yaml')} train.steps=2000 --out runs/longer",
        f"  archlab export {shell_path(folder / 'best')} --out {shell_path(folder / 'standalone')}",
    ]
    return Text("\n").join(map(foreign, lines))
