"""The progress of a training run: live lines in terminals and notebooks, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from archlab.cli.live import LiveLines
from archlab.cli.progress_lines import format_seconds, run_line, task_line
from archlab.config.experiment import Experiment
from archlab.reporting.format import format_validation
from archlab.runtime.progress import report_to
from archlab.training.callbacks import Callback
from archlab.training.progress import RunProgress

PLAIN_EVERY_S = 5.0


class ProgressBar(Callback):
    """Show training as it runs: step, loss, tokens/s and time left; as a bar in terminals and notebooks, else as lines.

    Pass it to `archlab.train(..., callbacks=[archlab.ProgressBar()])`.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.lines = LiveLines(console, self.draw)
        self.console, self.is_live = self.lines.console, self.lines.is_live
        self.label, self.run = "", RunProgress("", "starting")
        self.first_step, self.begin, self.after_first, self.last_line = 0, 0.0, 0.0, 0.0
        self.task: RunProgress | None = None
        self.task_begin, self.task_line = 0.0, 0.0
        self.block: ExitStack | None = None

    def __enter__(self) -> Self:
        self.block = ExitStack()
        self.block.enter_context(report_to(self.show_task))
        self.lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lines.stop()
        if self.block is not None:
            self.block.close()
            self.block = None

    def draw(self, width: int) -> Sequence[Text]:
        """Return the live lines for a width: the run, and other work in progress."""
        return [run_line(run, width) for run in (self.run, self.task) if run is not None and run.label]

    def show_task(self, label: str, done: int, total: int | None) -> None:
        """Show a bar for other work than training until it is done, or a line every few seconds."""
        now = time.monotonic()
        if self.task is None or self.task.label != label:
            self.task_begin = self.task_line = now
            self.lines.start()
        left = (now - self.task_begin) / done * (total - done) if total and done else None
        self.task = None if done == total else RunProgress(label, "evaluating", done, total or 0, {}, left)
        self.lines.update(at_once=done == total)
        if not self.is_live and self.task is not None and now - self.task_line >= PLAIN_EVERY_S:
            self.task_line = now
            self.print(task_line(self.task))
        if self.task is None and self.block is None:
            self.lines.stop()

    def print(self, line: str | Text) -> None:
        """Print a permanent line above the bar."""
        self.lines.print(line)

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Start a bar for one run."""
        self.lines.start()
        self.first_step, self.begin = step, time.monotonic()
        self.last_line = self.after_first = self.begin
        self.run = RunProgress(self.live_label or experiment.name, "training", step, experiment.train.steps)
        if step:
            self.print(f"{self.label or experiment.name}: resuming after step {step}")
        self.lines.update()

    @property
    def live_label(self) -> str:
        """The name of the run in its live line."""
        return self.label

    def on_step(self, record: Mapping[str, float]) -> None:
        """Advance the bar, or print a line every few seconds where there is no terminal."""
        step, now = int(record["step"]), time.monotonic()
        metrics = {**self.run.metrics, **{name: record[name] for name in ("loss", "tokens_per_s")}}
        left = self._seconds_left(step, now)
        self.run = replace(self.run, state="training", step=step, metrics=metrics, seconds_left=left)
        self.lines.update(at_once=step == self.run.steps)
        if not self.is_live and (now - self.last_line >= PLAIN_EVERY_S or step == self.run.steps):
            self.last_line = now
            self.print(self._plain_line(left))

    def _seconds_left(self, step: int, now: float) -> float:
        if step <= self.first_step + 1:  # which compiles, and says little of the others
            self.after_first = now
            return (now - self.begin) * (self.run.steps - step)
        return (now - self.after_first) / (step - self.first_step - 1) * (self.run.steps - step)

    def _plain_line(self, left: float) -> str:
        run = self.run
        val = format_validation(run.metrics)
        figures = [f"loss {run.metrics['loss']:.4f}", val, f"{run.metrics['tokens_per_s']:,.0f} tokens/s"]
        shown = "  ".join(part for part in figures if part)
        name = f"{self.label}  " if self.label else "step "
        return f"{name}{run.step}/{run.steps}  {shown}  eta {format_seconds(left)}"

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Show the validation loss beside the bar from now on."""
        metrics = {name: value for name, value in record.items() if name.startswith("val_")}
        self.run = replace(self.run, state="training", metrics={**self.run.metrics, **metrics})
        self.lines.update()

    def on_eval_progress(self, done: int, total: int | None) -> None:
        """Show that the run is evaluated."""
        self.run = replace(self.run, state="validating")
        self.lines.update(at_once=False)

    def on_end(self) -> None:
        """Remove the bar, unless a block of the caller's ends it; a search starts another for its next run."""
        if self.block is None:
            self.lines.stop()
