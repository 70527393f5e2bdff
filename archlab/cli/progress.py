"""The progress of a training run: a live bar in terminals and notebooks, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from archlab.cli.terminal import SafeConsole, foreign
from archlab.config.experiment import Experiment
from archlab.reporting.format import format_validation
from archlab.training.callbacks import Callback

PLAIN_EVERY_S = 5.0


class ProgressBar(Callback):
    """Show training as it runs: step, loss, tokens/s and time left; as a bar in terminals and notebooks, else as lines.

    Pass it to `archlab.train(..., callbacks=[archlab.ProgressBar()])`.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console, self.label = console or SafeConsole(), ""
        self.is_live = self.console.is_terminal or self.console.is_jupyter
        self.bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.is_live,
        )
        self.task: TaskID | None = None
        self.last_line, self.begin, self.first_step, self.steps = 0.0, 0.0, 0, 0
        self.val = ""

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def print(self, line: str | Text) -> None:
        """Print a permanent line above the bar."""
        self.console.print(foreign(line) if isinstance(line, str) else line, highlight=False, soft_wrap=True)

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Start a bar for one run."""
        self.bar.start()  # a second start does nothing
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.steps, self.first_step, self.begin = experiment.train.steps, step, time.monotonic()
        self.last_line, self.val = self.begin, ""
        self.task = self.bar.add_task(
            foreign(self.label or experiment.name).plain, total=self.steps, completed=step, figures=""
        )
        if step:
            self.print(f"{self.label or experiment.name}: resuming after step {step}")

    def on_step(self, record: Mapping[str, float]) -> None:
        """Advance the bar, or print a line every few seconds where there is no terminal."""
        figures = f"loss {record['loss']:.4f}{self.val}  {record['tokens_per_s']:,.0f} tokens/s"
        if self.task is not None:
            self.bar.update(self.task, completed=record["step"], figures=figures)
        now = time.monotonic()
        if not self.is_live and (now - self.last_line >= PLAIN_EVERY_S or record["step"] == self.steps):
            self.last_line = now
            left = (now - self.begin) / (record["step"] - self.first_step) * (self.steps - record["step"])
            self.print(f"{self.label or 'step'} {record['step']:.0f}/{self.steps}  {figures}  eta {left:.0f} s")

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Show the validation loss beside the bar from now on."""
        self.val = f"  {format_validation(record)}"

    def on_end(self) -> None:
        """Remove the bar; a search starts another for its next run."""
        self.bar.stop()
