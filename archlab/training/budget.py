"""A budget of seconds as a number of optimizer steps: measured once when a run starts, kept when it is resumed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from archlab.config.budget import Budget
from archlab.config.experiment import Experiment, load
from archlab.errors import ArchlabError, ConfigError
from archlab.storage.run_identity import read_run_identity
from archlab.training.step import TrainStep, prepare_experiment

# The first steps compile, map memory and fill caches. Of the rest the median counts: other load of the machine now and
# then must not decide how long the run is.
WARMUP_STEPS, MIN_STEPS, MAX_STEPS = 3, 5, 50
MAX_SHARE = 0.02  # of the budget, that measuring may take beyond MIN_STEPS


def prepare_run(experiment: Experiment, previous: Mapping[str, str] | None = None, processes: int = 1) -> Experiment:
    """Check an experiment and return it with every `auto` and its budget resolved; see `prepare_experiment`.

    A budget of seconds is measured: a few optimizer steps are made and thrown away.
    """
    prepared = prepare_experiment(experiment, previous, processes)
    budget = prepared.train.budget
    if budget is None:
        return prepared
    steps = _measure(prepared, budget)
    # `compile: auto` depends on the length of the run, and the length on whether it is compiled.
    again = prepare_experiment(_with_steps(experiment, steps), previous)
    if again.train.compile != prepared.train.compile:
        again = _with_steps(again, _measure(again, budget))
    return again


def keep_budget(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment of a run that is resumed, with the steps to which its budget was resolved at the start.

    Raises ArchlabError if the run in the directory has another budget.
    """
    budget, file = experiment.train.budget, folder / "experiment.yaml"
    if budget is None or not file.is_file():
        return experiment
    recorded, steps = read_run_identity(folder).get("budget"), load(file, recorded=True).train.steps
    if recorded == str(budget):
        return _with_steps(experiment, steps)
    if budget.kind == "seconds":
        there = recorded or f"{steps} steps"
        advice = "name another directory, or start over with --force"
        raise ArchlabError(f"{file}: train.budget is {there} there and {budget} here; {advice}")
    return experiment


def _with_steps(experiment: Experiment, steps: int) -> Experiment:
    return replace(experiment, train=experiment.train.with_steps(steps))


def _measure(experiment: Experiment, budget: Budget) -> int:
    """Return the number of steps that fit into a budget of seconds, by the median time of a few."""
    train_step = TrainStep(experiment)
    for _ in range(WARMUP_STEPS):
        train_step()
    begin, times = time.perf_counter(), list[float]()
    while len(times) < MIN_STEPS or (
        len(times) < MAX_STEPS and time.perf_counter() - begin < MAX_SHARE * budget.amount
    ):
        before = time.perf_counter()
        train_step()  # ends with the loss on the CPU, so that the device's work is included
        times.append(time.perf_counter() - before)
    del train_step
    torch.compiler.reset()  # or the graphs of the model that is thrown away count against those of the run
    try:
        return budget.steps(statistics.median(times))
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, experiment.source) from None
