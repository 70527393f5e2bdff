"""Samplers whose values are a function of the study's seed and the candidate's number, whichever worker asks for them.

Optuna's QMCSampler and BruteForceSampler (5.0) take the next point, and the untried combinations, from the study:
a worker's result depends on when the others ask, and on which trials have ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from archlab.searching.study.trial_attrs import trial_attrs

_DIMS = 256  # of a point, of which a trial takes as many as it has parameters


def next_number(trials: Iterable[FrozenTrial]) -> int:
    """Return the number of the next candidate: the first that none of the trials has, retries of one sharing its own.

    Trials of earlier versions have no number, and are the first ones in their order.
    """
    numbers = [trial_attrs(trial).get("candidate") for trial in trials]
    used = {*range(numbers.count(None)), *numbers}
    return next(number for number in range(len(used) + 1) if number not in used)


class _IndependentSampler(BaseSampler):
    """Base class of samplers that choose one parameter after the other."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return no parameters."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Choose no parameters."""
        return {}


class FixedSampler(_IndependentSampler):
    """Gives parameters that are known, and asks another sampler for the others."""

    def __init__(self, parameters: Mapping[str, Any], other: BaseSampler) -> None:
        self.parameters, self.other = parameters, other

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the known value."""
        if param_name in self.parameters:
            return self.parameters[param_name]
        return self.other.sample_independent(study, trial, param_name, param_distribution)


class PointSampler(_IndependentSampler):
    """Takes the coordinates of one point of a low-discrepancy sequence, in the order in which parameters are chosen.

    `options` are those of Optuna's QMCSampler, `qmc_type` and `scramble`.
    Optuna's takes none for parameters that a choice decides on.
    """

    def __init__(self, number: int, seed: int, options: Mapping[str, object]) -> None:
        self.number, self.seed = number, seed
        self.kind, self.scramble = options.get("qmc_type", "sobol"), bool(options.get("scramble"))
        self._left: list[float] = []

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value at the next coordinate; after those of _DIMS parameters the point begins again."""
        if not self._left:
            self._left = self._point()
        return value_at(self._left.pop(0), param_distribution)

    def _point(self) -> list[float]:
        from scipy.stats import qmc

        kind = qmc.Halton if self.kind == "halton" else qmc.Sobol
        engine = kind(_DIMS, scramble=self.scramble, seed=self.seed)
        if self.number:
            engine.fast_forward(self.number)
        return [float(u) for u in engine.random(1)[0]]


def value_at(u: float, distribution: BaseDistribution) -> Any:
    """Return the value at a coordinate from 0 to 1: each choice, and each step of a range, has an equal part of it."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    half = step / 2 if step else 0.0
    if distribution.log:
        value = math.exp(math.log(low - half) + u * (math.log(high + half) - math.log(low - half)))
    else:
        value = low - half + u * (high - low + step if step else high - low)
    if step:
        # Down, and not to the nearest: coordinates of few bits are on the borders, where the nearest is the even one.
        value = low + math.floor((value - low) / step + 0.5) * step
    value = min(max(value, low), high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)
