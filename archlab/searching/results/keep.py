"""Which trials keep their weights."""

from __future__ import annotations

from collections.abc import Sequence

from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from archlab.searching.study.study import is_interrupted
from archlab.searching.study.trial_attrs import trial_attrs


def kept_trials(study: Study, done: Sequence[FrozenTrial], front: Sequence[FrozenTrial], best: int) -> set[int]:
    """Return the numbers of the `best` best trials: those of the Pareto front first, then by the first objective."""
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    of_front = {trial.number for trial in front}
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    ranked = sorted(complete, key=lambda trial: (trial.number not in of_front, sign * trial.values[0], trial.number))
    return {trial.number for trial in ranked[:best]}


def superseded_trials(study: Study, done: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the interrupted trials whose last attempt has ended."""
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    numbers: set[int] = set()
    for trial in done:
        earlier = trial_attrs(trial).get("retry_of")
        while earlier in trials and is_interrupted(trials[earlier]):
            numbers.add(earlier)
            earlier = trial_attrs(trials[earlier]).get("retry_of")
    return numbers
