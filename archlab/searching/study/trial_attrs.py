"""The user attributes that a search stores with a trial in Optuna's study.

Searches are resumed by later versions: these names are a file format, and stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypedDict, cast

import optuna
from optuna.trial import FrozenTrial, Trial

from archlab.runtime.private_apis import set_trial_attr


class TrialAttrs(TypedDict, total=False):
    """Each attribute is missing until it is known.

    - `values`: the value of every varied knob, by path.
    - `costs`, `metrics`: the estimated costs of the model, and everything measured, costs included.
    - `reason`: why the trial was pruned, failed or interrupted.
    - `interrupted`: whether its process ended before the trial did, so that the trial is run again.
    - `attempt`, `retry_of`: the number of the attempt from 1, and the trial that this one runs again.
    - `next_attempt`: of an interrupted trial, the number of the attempt that runs it again.
    - `progress`: of an interrupted trial and its retry, the part that is kept: ended runs, a step.
    - `fruitless`: how many attempts in a row were killed without progress beyond that.
    - `lost_workers`: the same of the workers of a trial that runs in a process of its own.
    - `id`: the trial's UUID, since a number alone does not distinguish it from another search's trial.
    - `choice`, `seed_of`: the compared choice that the trial belongs to, and the experiment that it was made from.
    - `candidate`: the number of the candidate from 0, within its choice, by which its values are sampled.
    - `repeat`: how many trials before it had the same values; each has another random seed.
    - `tuned`, `runs`: the inner settings of its best run, and the results of each of its runs.
    - `tasks`: the metrics on each task, of which `metrics` are the means.
    - `seed_metrics`, `std`: the metrics with each random seed, and their standard deviations.
    - `reported`: a validation metric by tokens, for pruning with several objectives.
    - `spent`: the seconds, tokens and FLOPs of this attempt.
    - `paused`: the step at which it has paused, or 0 once it was promoted.
    """

    values: dict[str, Any]  # YAML data
    costs: Mapping[str, float]
    metrics: dict[str, float]
    reason: str
    interrupted: bool
    attempt: int
    retry_of: int
    next_attempt: int
    progress: list[int]
    fruitless: int
    lost_workers: int
    id: str
    choice: str
    seed_of: str
    candidate: int
    repeat: int
    tuned: dict[str, Any]
    runs: list[dict[str, Any]]
    tasks: dict[str, dict[str, float]]
    seed_metrics: dict[str, list[float]]
    std: dict[str, float]
    reported: dict[str, float]
    spent: dict[str, float]
    paused: int


def trial_attrs(trial: FrozenTrial) -> TrialAttrs:
    """Return the attributes of a trial."""
    return cast(TrialAttrs, trial.user_attrs)


def set_trial_attrs(study: optuna.Study, trial: FrozenTrial | Trial, attrs: TrialAttrs) -> None:
    """Store attributes with a trial, as plain JSON data."""
    for name, value in attrs.items():
        plain = json.loads(json.dumps(value))
        if isinstance(trial, Trial):
            trial.set_user_attr(name, plain)
        else:  # an interrupted trial, which Optuna gives no setter
            set_trial_attr(study, trial, name, plain)
