"""The choice of the next trial: a retry, a seed, or one for the next choice or from the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from archlab.errors import ConfigError
from archlab.searching.sampling.combinations import Combinations
from archlab.searching.sampling.enqueue_params import optuna_parameters
from archlab.searching.sampling.numbered_samplers import FixedSampler, PointSampler, next_number
from archlab.searching.sampling.rounds import Turn, Wait, next_turn
from archlab.searching.space.compare import Arm, arms, plan_rounds
from archlab.searching.space.search_space import Space
from archlab.searching.study.choice_view import ChoiceSampler
from archlab.searching.study.promotion import is_anything_running, promote
from archlab.searching.study.study import (
    SearchStudy,
    count_claimed,
    counts_candidates,
    has_numbered_combinations,
    is_exhausted,
    is_interrupted,
    mark_exhausted,
)
from archlab.searching.study.trial_attrs import set_trial_attrs, trial_attrs
from archlab.searching.variants.experiment_values import express

Values = Mapping[str, Any]


class TrialQueue:
    """Asks a study for one trial after the other; the caller holds the study's lock."""

    def __init__(self, study: SearchStudy, space: Space, total: int) -> None:
        self.study, self.space, self.total = study, space, total
        self.seeds = space.seed_values()
        self.arms = arms(space.compare, space.vary) if space.compare else []
        if self.arms:
            self._check_seeds(plan_rounds(total, len(self.arms))[0].trials)

    def _check_seeds(self, each: int) -> None:
        for arm in self.arms:
            names = [name for name, values in self.seeds.items() if _belongs(values, arm)]
            if len(names) > each:
                problem = f"{', '.join(names)} are of one choice, which gets {each} of {self.total} trials at first"
                raise ConfigError("seeds", problem, self.space.source)

    def ask(self) -> Trial | Wait | None:
        """Return the next trial, or None if enough have started."""
        if promoted := self._promoted_trial():
            return promoted
        if self.arms:
            turn = None if self._waiting_trial() else self._next_turn()
            if turn is None and not self._waiting_trial():
                return None
            if isinstance(turn, Wait):
                return turn
            if turn is not None:
                self._enqueue_turn(turn)
        elif count_claimed(self.study) >= self.total or is_exhausted(self.study):
            return Wait.FOR_RUNNING_TRIALS if self.space.rungs and is_anything_running(self.study) else None
        elif not self._waiting_trial():
            self._enqueue_seed()
        number = self._number()
        sampler = self._sampler(number)
        if sampler is None:
            mark_exhausted(self.study)
            return self.ask() if self.space.rungs else None
        self.study.sampler = sampler
        trial = self.study.ask()
        if counts_candidates(self.study):
            set_trial_attrs(self.study, trial, {"candidate": number})
        return trial

    def _promoted_trial(self) -> Trial | None:
        config, space = self.space.promotion, self.space
        return promote(self.study, space.rungs, config.reduction_factor, space.sign) if config else None

    def _next_turn(self) -> Turn | Wait | None:
        return next_turn(self.arms, self._started_trials(), self.total, self.space.objective, self.space.sign)

    def _waiting_trial(self) -> FrozenTrial | None:
        return next(iter(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))), None)

    def _started_trials(self) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state != TrialState.WAITING and not is_interrupted(trial)]

    def _enqueue_seed(self) -> None:
        tried = {trial_attrs(trial).get("seed_of") for trial in self.study.get_trials(deepcopy=False)}
        name = next((name for name in self.seeds if name not in tried), None)
        if name is not None:
            self._enqueue(self.seeds[name], {"seed_of": name})

    def _enqueue_turn(self, turn: Turn) -> None:
        starts = self._starts(turn.arm)
        attrs: dict[str, Any] = {"choice": turn.arm.label}
        if turn.index >= len(starts):
            self._enqueue(turn.arm.values, attrs)
        else:
            name, values = starts[turn.index]
            self._enqueue(values, attrs | ({"seed_of": name} if name else {}))

    def _starts(self, arm: Arm) -> list[tuple[str, Values]]:
        """Return the first trials of a choice: seeds, and the base experiment with this choice and no other change."""
        starts: list[tuple[str, Values]] = [(n, v) for n, v in self.seeds.items() if _belongs(v, arm)]
        space = self.space
        like_base, _ = express(space.varied, space.base, space.base.override(arm.values, "compare"))
        values = {**like_base, **arm.values}
        return starts if any(values == seed for _, seed in starts) else [*starts, ("", values)]

    def _enqueue(self, values: Values, attrs: dict[str, Any]) -> None:
        self.study.enqueue_trial(optuna_parameters(self.space.varied, self.space.base, values), attrs)

    def _number(self) -> int:
        """Return the number of the next trial's candidate, within its choice if there are any to compare."""
        waiting, trials = self._waiting_trial(), self.study.get_trials(deepcopy=False)
        # A search begun by an earlier version continues with that version's numbering of trials, which counts retries.
        if not counts_candidates(self.study) and not self.arms:
            return len(trials)
        attrs = trial_attrs(waiting) if waiting else {}
        if "candidate" in attrs:
            return attrs["candidate"]
        own = [t for t in trials if not self.arms or trial_attrs(t).get("choice") == attrs.get("choice")]
        return next_number(t for t in own if not is_interrupted(t) and not (waiting and t.number == waiting.number))

    def _sampler(self, number: int) -> BaseSampler | None:
        """Return the sampler of a candidate, seeded by its number, or None if everything has been tried."""
        study, objectives, waiting = self.space.study, len(self.space.objectives), self._waiting_trial()
        if study.sampler.type == "qmc":  # Optuna's own begins with a random point, and the first one is all zeros
            seed = study.sampler_seed(number)
            return PointSampler(number - 1, seed, study.sampler.options) if number else RandomSampler(seed)
        if self.arms and waiting:
            choice = trial_attrs(waiting).get("choice")
            return ChoiceSampler(study.make_sampler(f"{choice}:{number}", objectives=objectives))
        if study.sampler.type == "brute_force" and has_numbered_combinations(self.study):
            return self._brute_force(number)
        return study.make_sampler(number, objectives=objectives)

    def _brute_force(self, number: int) -> BaseSampler | None:
        combination = self.combinations.get(number - len(self.seeds)) if number >= len(self.seeds) else {}
        other = RandomSampler(self.space.study.sampler_seed(number))  # for values that a seed leaves open
        return None if combination is None else FixedSampler(combination, other)

    @cached_property
    def combinations(self) -> Combinations:
        """The tree of combinations for brute force."""
        return Combinations(self.space)


def _belongs(values: Values, arm: Arm) -> bool:
    return all(values.get(path) == value for path, value in arm.values.items())
