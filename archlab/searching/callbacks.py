"""Who looks on while a search runs: the person at the terminal, and the pruner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import optuna
from optuna.trial import Trial

from archlab.config.experiment import Experiment
from archlab.searching.space import Space
from archlab.training.callbacks import Watch


class SearchWatch(Protocol):
    """What looks on while a search runs."""

    def on_search(self, space: Space, done: int, total: int) -> None:
        """The search begins, or goes on, after `done` of `total` trials."""

    def on_run(self, label: str, values: Mapping[str, Any]) -> Watch | None:
        """The baseline or a trial begins; return what shall watch its training."""

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        """The baseline or a trial has ended as complete, pruned or failed."""


class Unwatched:
    """A watch that looks away."""

    def on_search(self, space: Space, done: int, total: int) -> None:
        """Do nothing."""

    def on_run(self, label: str, values: Mapping[str, Any]) -> Watch | None:
        """Do nothing."""

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        """Do nothing."""


class Judge:
    """Shows a trial's evaluations to the pruner, which may end it, and passes on what it sees."""

    def __init__(self, trial: Trial, metric: str, steps: int, watch: Watch) -> None:
        self.trial, self.metric, self.steps, self.watch = trial, metric, steps, watch

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Pass on."""
        self.watch.on_start(experiment, step)

    def on_step(self, record: dict[str, Any]) -> None:
        """Pass on."""
        self.watch.on_step(record)

    def on_eval(self, record: dict[str, Any]) -> None:
        """Pass on, then end the trial where others were better by now; one that is through is through."""
        self.watch.on_eval(record)
        step, value = int(record["step"]), float(record[self.metric])
        self.trial.report(value, step)
        if step < self.steps and self.trial.should_prune():
            raise optuna.TrialPruned(f"given up at step {step} of {self.steps}, with {self.metric} {value:.4g}")
