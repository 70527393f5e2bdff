"""A sampler and a pruner that see only the trials of one choice, so that each choice is searched by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from archlab.runtime.private_apis import study_of_trials
from archlab.searching.study.trial_attrs import trial_attrs


def _view(study: Study, trial: FrozenTrial) -> Study:
    choice = trial_attrs(trial).get("choice")
    return study_of_trials(study, lambda other: trial_attrs(other).get("choice") == choice)


class ChoiceSampler(BaseSampler):
    """Samples a trial from those of its own choice."""

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the sampler."""
        return self.sampler.infer_relative_search_space(_view(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the sampler."""
        return self.sampler.sample_relative(_view(study, trial), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask the sampler."""
        return self.sampler.sample_independent(_view(study, trial), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Report to the sampler."""
        self.sampler.before_trial(_view(study, trial), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Report to the sampler."""
        self.sampler.after_trial(_view(study, trial), trial, state, values)


class ChoicePruner(BasePruner):
    """Prunes a trial by those of its own choice: one that learns slowly at first is not ended by the others."""

    def __init__(self, pruner: BasePruner) -> None:
        self.pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Ask the pruner."""
        return self.pruner.prune(_view(study, trial), trial)
