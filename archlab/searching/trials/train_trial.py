"""The training of a trial: its runs, on one task or on several, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import torch

from archlab.config.experiment import Experiment, UnresolvedExperiment
from archlab.searching.results.objectives import decode_us_per_token, tokens_per_s
from archlab.searching.space.tasks import task_experiments
from archlab.searching.study.study import delete_weights
from archlab.searching.trials.callbacks import Judge, PruningCallback, TrialPaused
from archlab.searching.trials.candidate_runs import CandidateRuns, copy_run_files, mean_metrics
from archlab.searching.trials.trial_job import TrialJob, TrialListener, TrialOutput
from archlab.searching.variants.cost_request import CostRequest, Costs, count_costs
from archlab.training.trainer import train

_DECODING = "decode_us_per_token"


def train_trial(job: TrialJob, listener: TrialListener) -> TrialOutput:
    """Train a trial and return its metrics; ended runs are not run again.

    Raises optuna.TrialPruned if the listener's judge ends it, and the exceptions of training.
    """
    training = _TrialTraining(job, listener)
    if job.is_single:
        return TrialOutput(training.train_single())
    return training.train_tasks() if job.tasks else training.train_runs(job.experiment, job.folder, job.label)


class RunnerHere:
    """Counts costs and trains in this process."""

    def count(self, request: CostRequest) -> Costs:
        """Return costs."""
        return count_costs(request)

    def train(self, job: TrialJob, listener: TrialListener) -> TrialOutput:
        """Train a trial."""
        return train_trial(job, listener)


@contextmanager
def open_here(label: str, folder: Path, *, alone: bool) -> Iterator[RunnerHere]:
    """Give every trial this process to run in."""
    yield RunnerHere()


class _TrialTraining:
    def __init__(self, job: TrialJob, listener: TrialListener) -> None:
        self.job, self.listener, self.has_begun = job, listener, False

    def train_single(self) -> dict[str, float]:
        """Train the only run of the trial."""
        job = self.job
        experiment = job.experiment.override(job.settings[0], "inner").resolve()
        return self._train(experiment, job.folder, job.label, job.settings[0], self.listener.judge, job.resume)

    def train_runs(self, experiment: UnresolvedExperiment, folder: Path, label: str) -> TrialOutput:
        """Train the runs on one task."""

        def train_one(
            experiment: Experiment, run: Path, index: int, chosen: Mapping[str, Any], judge: Judge | None
        ) -> dict[str, float]:
            name = f"{label}, run {index + 1} of {self.job.runs}" if self.job.runs > 1 else label
            return self._train(experiment, run, name, chosen, judge, resume=True)

        job = self.job
        runs = CandidateRuns(folder, train_one, job.metric, job.sign, self.listener.judge, job.search)
        return runs.run(experiment, job.settings, job.seeds)

    def train_tasks(self) -> TrialOutput:
        """Train the runs on each task; the trial's model is that of the first task."""
        job, outputs = self.job, {}
        for name, experiment in task_experiments(job.tasks, job.experiment).items():
            outputs[name] = self.train_runs(experiment, _task_dir(job.folder, name), f"{job.label}, {name}")
        _publish_task(job.folder, next(iter(outputs)))
        for name in outputs:
            delete_weights(_task_dir(job.folder, name))
        every = [output.metrics for output in outputs.values()]
        return TrialOutput(mean_metrics(every), {"tasks": dict(zip(outputs, every, strict=True))})

    def _train(
        self,
        experiment: Experiment,
        run: Path,
        label: str,
        chosen: Mapping[str, Any],
        judge: Judge | None,
        resume: bool,
    ) -> dict[str, float]:
        callback = self.listener.on_run(label, chosen if self.has_begun else {**self.job.values, **chosen})
        self.has_begun = True
        if judge is not None:
            end = TrialPaused if self.job.pauses else optuna.TrialPruned
            callback = PruningCallback(judge, self.job.metric, experiment.train.steps, callback, end)
        with _fresh_compiler():
            force, every_s = self.job.force, self.job.save_every_s
            result = train(experiment, run, callbacks=[callback], resume=resume, force=force, save_every_s=every_s)
            metrics = dict(result.metrics)
            speed = tokens_per_s(run)
            if _DECODING in self.job.measured:
                metrics[_DECODING] = decode_us_per_token(run)
        return metrics | ({"tokens_per_s": speed} if speed else {})


def _task_dir(folder: Path, name: str) -> Path:
    return folder / "tasks" / name


def _publish_task(folder: Path, first: str) -> None:
    """Make the trial's directory one of its run on the first task, with the trained model."""
    task = _task_dir(folder, first)
    copy_run_files(task, folder)
    if not (folder / "final").is_dir():  # as after an interruption that came between this and the result
        (task / "final").rename(folder / "final")


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Free compiled code and cached GPU memory when a run ends: the next one has another model."""
    try:
        yield
    finally:
        torch.compiler.reset()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
