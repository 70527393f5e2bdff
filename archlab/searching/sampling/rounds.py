"""Whose turn it is in a comparison of choices.

It follows from the trials that there are, so that a search may be stopped at any moment, and its number of trials may
grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from optuna.trial import FrozenTrial, TrialState

from archlab.searching.sampling.candidates import best_value
from archlab.searching.space.compare import Arm, plan_rounds
from archlab.searching.study.trial_attrs import trial_attrs

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Turn:
    """The next trial: of which choice, its how many-th, and in which round, both from 0."""

    arm: Arm
    index: int
    round: int


class Wait(StrEnum):
    """Whose turn it is depends on trials that are running."""

    FOR_RUNNING_TRIALS = "wait"


def next_turn(
    every: Sequence[Arm], trials: Sequence[FrozenTrial], total: int, objective: str, sign: float
) -> Turn | Wait | None:
    """Return the next choice in round-robin order, or None when every choice has had its turn.

    `trials` are those that have started, without interrupted ones; `sign` is -1 where larger values are better.
    """
    given = {arm.label: [t for t in trials if trial_attrs(t).get("choice") == arm.label] for arm in every}
    left, need = list(every), 0
    for number, each in enumerate(plan_rounds(total, len(every))):
        left, is_final = _survivors(left, given, need, each.choices, (objective, sign))
        need += each.trials
        behind = [arm for arm in left if len(given[arm.label]) < need]
        if behind:  # the choice with the fewest, so that a search that ends early has given each as many
            arm = min(behind, key=lambda arm: len(given[arm.label]))
            return Turn(arm, len(given[arm.label]), number)
        if not is_final:
            return Wait.FOR_RUNNING_TRIALS
    return None


def _survivors(
    left: Sequence[Arm], given: Mapping[str, Sequence[FrozenTrial]], need: int, size: int, by: tuple[str, float]
) -> tuple[list[Arm], bool]:
    """Return the choices that are certain to take part in the next round, and whether they are all of it."""
    if size >= len(left):
        return list(left), True
    scores = {arm.label: _score(given[arm.label][:need], *by) for arm in left}
    ended = [arm for arm in left if scores[arm.label] is not None]
    open_ones = len(left) - len(ended)
    ranked = sorted(ended, key=lambda arm: scores[arm.label])  # type: ignore[arg-type,return-value]
    # Whatever the running trials will show, at least this many of the finished choices continue.
    certain = ranked[: max(size - open_ones, 0)]
    return [arm for arm in left if arm in certain], open_ones == 0


def _score(trials: Sequence[FrozenTrial], objective: str, sign: float) -> float | None:
    """Return the best value of a choice, infinite if it has none, or None while one of its trials runs."""
    if any(trial.state not in _FINISHED for trial in trials):
        return None
    best = best_value(trials, objective, sign)
    return math.inf if best is None else sign * best
