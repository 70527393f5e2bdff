"""Trials that pause and are promoted: asynchronous successive halving (arXiv:1810.05934) without a step made twice.

A paused trial stays open in the study, with the step in its attribute `paused`, and keeps its directory and checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from archlab.runtime.private_apis import open_trial
from archlab.searching.study.trial_attrs import set_trial_attrs, trial_attrs


class PromotionJudge:
    """Decides at each evaluation of a trial whether it pauses; `sign` is -1 if larger values are better."""

    def __init__(self, study: Study, trial: Trial, rungs: Sequence[int], factor: int, sign: float) -> None:
        self.study, self.trial, self.rungs, self.factor, self.sign = study, trial, rungs, factor, sign
        self.step = 0

    def report(self, value: float, step: int) -> None:
        """Store an evaluation with the trial."""
        self.step = step
        self.trial.report(value, step)

    def should_prune(self) -> bool:
        """Whether the trial has come to a rung, and is not among the best of those that have come there."""
        if self.step not in self.rungs:
            return False
        best = _best_at(self.study.get_trials(deepcopy=False), self.step, self.factor, self.sign)
        return self.trial.number not in {trial.number for trial in best}


def is_paused(trial: FrozenTrial) -> bool:
    """Return whether a trial is open, and waits for its promotion."""
    return trial.state == TrialState.RUNNING and bool(trial_attrs(trial).get("paused"))


def promote(study: Study, rungs: Sequence[int], factor: int, sign: float) -> Trial | None:
    """Return a paused trial that is now among the best of its rung, to be claimed, or None; the highest rung first.

    The caller holds the study's lock.
    """
    trials = study.get_trials(deepcopy=False)
    for rung in reversed(rungs):
        for trial in _best_at(trials, rung, factor, sign):
            if is_paused(trial) and trial_attrs(trial)["paused"] == rung:
                set_trial_attrs(study, trial, {"paused": 0})
                return open_trial(study, trial)
    return None


def is_anything_running(study: Study) -> bool:
    """Return whether a trial is being trained, or waits to be, which may let others be promoted."""
    every = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return any(not is_paused(trial) for trial in every)


def _best_at(trials: Sequence[FrozenTrial], rung: int, factor: int, sign: float) -> list[FrozenTrial]:
    """Return one in `factor` of the trials that have come to a rung, the best first."""
    # An interrupted trial and the one that runs it again are the same candidate.
    there = [t for t in trials if rung in t.intermediate_values and not trial_attrs(t).get("interrupted", False)]
    return sorted(there, key=lambda trial: _rank(trial, rung, sign))[: len(there) // factor]


def _rank(trial: FrozenTrial, rung: int, sign: float) -> tuple[float, int]:
    value = sign * trial.intermediate_values[rung]
    return (math.inf if math.isnan(value) else value, trial.number)
