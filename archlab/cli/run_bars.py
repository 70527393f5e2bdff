"""A bar for each of several training runs that one process has in flight, among lines of the whole."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console

from archlab.cli.progress import ProgressBar
from archlab.config.experiment import Experiment
from archlab.training.progress import RunProgress

READ_EVERY_S = 5.0  # between readings of other workers' progress


class ManyRunsBar(ProgressBar):
    """Shows several runs: `bars` has one for each, by its label."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self.bars: dict[str, RunBar] = {}
        self.last_read = 0.0

    def refresh(self) -> None:
        """Show the whole as it is now."""
        self.last_read = time.monotonic()
        self.lines.update()


class RunBar(ProgressBar):
    """The bar of one run of several; `live_label` is its name among the lines of the whole."""

    def __init__(self, owner: ManyRunsBar, label: str, live_label: str = "") -> None:
        super().__init__(owner.console)
        self.owner, self.lines, self.label, self.short = owner, owner.lines, label, live_label or label
        self.run = RunProgress(self.short, "starting")
        self.opened = time.monotonic()

    @property
    def live_label(self) -> str:
        """The name of the run in its live line."""
        return self.short

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Start the bar of a run."""
        self.owner.refresh()  # here and not when the last run ended, before its worker had recorded all of it
        super().on_start(experiment, step)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Advance the run's bar, and from time to time those of other workers."""
        super().on_step(record)
        if self.is_live and time.monotonic() - self.owner.last_read >= READ_EVERY_S:
            self.owner.refresh()

    def on_end(self) -> None:
        """Leave the lines to the other runs; without a block of the caller's they end with each run."""
        if self.owner.block is None:
            self.lines.stop()
