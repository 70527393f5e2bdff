"""The cost of a training run's evaluations."""

from __future__ import annotations

from contextlib import suppress

from archlab.config.experiment import Experiment
from archlab.data.task import Task
from archlab.errors import ArchlabError


def evaluated_tokens(experiment: Experiment) -> int:
    """Return the tokens of all of a run's evaluations, without those of data that are not available."""
    train = experiment.train
    evaluations = -(-train.steps // train.eval_every) if train.eval_every else 1
    return evaluations * (train.eval_tokens or _split_tokens(experiment))


def _split_tokens(experiment: Experiment) -> int:
    with suppress(ArchlabError):
        task: Task = experiment.task.factory()()
        return task.num_eval_targets("validation", experiment.train.context) or 0
    return 0
