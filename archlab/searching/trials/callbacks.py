"""Callbacks of a search, and the training callback that lets Optuna prune a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import optuna

from archlab.config.experiment import Experiment
from archlab.searching.space.search_space import Space
from archlab.training.callbacks import Callback, CallbackList
from archlab.training.progress import Progress


class SearchCallback:
    """Hooks that a search calls; every method does nothing unless overridden."""

    def on_search(self, space: Space, done: int, total: int) -> None:
        """The search starts, or resumes, after `done` of `total` trials."""

    def on_study(self, read: Callable[[], Progress]) -> None:
        """The study is open; `read` returns how far the search has come at the time of a call, all workers together."""

    def on_run(self, label: str, values: Mapping[str, object]) -> Callback:
        """The baseline or a trial starts, or one of its runs; return the callback of that training run."""
        return Callback()

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        """The baseline or a trial has ended as complete, pruned or failed."""

    def on_wait(self) -> None:
        """Other processes do the work; called every few seconds until they have done it."""

    def on_final_eval(self, label: str, done: int, total: int | None) -> None:
        """The best trial or the baseline is evaluated on the whole validation split: `done` of its `total` targets."""


class SearchCallbackList(SearchCallback):
    """Call every hook of several callbacks, in their order."""

    def __init__(self, callbacks: Sequence[SearchCallback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_search(self, space: Space, done: int, total: int) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_search(space, done, total)

    def on_study(self, read: Callable[[], Progress]) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_study(read)

    def on_run(self, label: str, values: Mapping[str, object]) -> Callback:
        """Forward to each, and return all their callbacks of the training run."""
        return CallbackList([callback.on_run(label, values) for callback in self.callbacks])

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_result(label, state, reason, metrics)

    def on_wait(self) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_wait()

    def on_final_eval(self, label: str, done: int, total: int | None) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_final_eval(label, done, total)


class Judge(Protocol):
    """The judge of whether a trial is pruned: a trial of Optuna, whose pruner decides, or archlab's own."""

    def report(self, value: float, step: int) -> None:
        """Take an evaluation after a step."""

    def should_prune(self) -> bool:
        """Return whether the trial is to end after its last evaluation."""


class TrialPaused(BaseException):
    """A trial pauses; no failure, so that training saves a checkpoint first."""


class PruningCallback(Callback):
    """Report a trial's evaluations to a judge, end or pause the trial when it says so, and forward every hook."""

    def __init__(
        self, judge: Judge, metric: str, steps: int, callback: Callback, end: type[BaseException] = optuna.TrialPruned
    ) -> None:
        self.judge, self.metric, self.steps, self.callback, self.end = judge, metric, steps, callback, end

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Forward, and take over the number of steps, to which a budget of the trial has been resolved by now."""
        self.steps = experiment.train.steps
        self.callback.on_start(experiment, step)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Forward."""
        self.callback.on_step(record)

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Forward, report the metric, and raise TrialPruned or TrialPaused if the judge asks for it early enough."""
        self.callback.on_eval(record)
        step, value = int(record["step"]), float(record[self.metric])
        self.judge.report(value, step)
        if step < self.steps and self.judge.should_prune():
            what = "paused" if self.end is TrialPaused else "pruned"
            raise self.end(f"{what} at step {step} of {self.steps}, with {self.metric} {value:.4g}")

    def on_eval_progress(self, done: int, total: int | None) -> None:
        """Forward."""
        self.callback.on_eval_progress(done, total)

    def on_end(self) -> None:
        """Forward."""
        self.callback.on_end()
