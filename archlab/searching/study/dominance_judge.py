"""Pruning with several objectives: a trial that others dominate at equal tokens is ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna import Study
from optuna.trial import FrozenTrial, Trial

from archlab.searching.space.dominance import DominanceConfig
from archlab.searching.study.trial_attrs import set_trial_attrs, trial_attrs


class DominanceJudge:
    """Stores the evaluations of a trial with it, and compares them with those of the other trials."""

    def __init__(
        self,
        study: Study,
        trial: Trial,
        config: DominanceConfig,
        objectives: Mapping[str, str],
        costs: Mapping[str, float],
    ) -> None:
        self.study, self.trial, self.config, self.costs = study, trial, config, costs
        self.signs = {name: -1.0 if direction == "maximize" else 1.0 for name, direction in objectives.items()}
        self.metric = next(name for name in objectives if name not in costs)
        self.reported: dict[str, float] = {}
        self.step = 0

    def report(self, value: float, step: int) -> None:
        """Store the validation metric after a step."""
        self.step = step
        self.reported[self._tokens(step)] = value
        set_trial_attrs(self.study, self.trial, {"reported": self.reported})

    def should_prune(self) -> bool:
        """Whether enough of the other trials dominate this one at its last evaluation."""
        tokens = self._tokens(self.step)
        own = self._point(self.costs, self.reported[tokens])
        others = [
            self._point(costs, attrs["reported"][tokens])
            for other in self.study.get_trials(deepcopy=False)
            if self._counts(other)
            and tokens in (attrs := trial_attrs(other)).get("reported", {})
            and (costs := attrs.get("costs"))
        ]
        if self.step < self.config.n_warmup_steps or len(others) < self.config.n_startup_trials:
            return False
        return sum(_dominates(other, own) for other in others) >= self.config.n_dominating

    def _counts(self, other: FrozenTrial) -> bool:
        # An interrupted trial and the one that runs it again are the same candidate.
        return other.number != self.trial.number and not trial_attrs(other).get("interrupted", False)

    def _tokens(self, step: int) -> str:
        return str(int(step * self.costs["tokens_per_step"]))  # a string, as the keys of JSON are

    def _point(self, costs: Mapping[str, float], value: float) -> list[float]:
        return [sign * (value if name == self.metric else costs[name]) for name, sign in self.signs.items()]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)
