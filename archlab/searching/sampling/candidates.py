"""The candidates of a search: trials with the same values are one candidate, measured with several random seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from archlab.searching.study.trial_attrs import trial_attrs


@dataclass(frozen=True)
class Candidate:
    """An objective of one candidate, with each random seed; `trials` are the numbers of its trials."""

    trials: tuple[int, ...]
    seed_values: tuple[float, ...]

    @property
    def value(self) -> float:
        """The mean over the random seeds."""
        return statistics.fmean(self.seed_values)


def candidates_of(trials: Iterable[FrozenTrial], objective: str) -> list[Candidate]:
    """Return the candidates of the completed trials, in their order."""
    grouped: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            grouped.setdefault(_key(trial), []).append(trial)
    return [
        Candidate(tuple(t.number for t in group), tuple(value for t in group for value in _seed_values(t, objective)))
        for group in grouped.values()
    ]


def _key(trial: FrozenTrial) -> str:
    # Without a comparison a repeated candidate has the same seed, and is no second measurement.
    attrs = trial_attrs(trial)
    return json.dumps(attrs.get("values", {}), sort_keys=True) if "repeat" in attrs else str(trial.number)


def _seed_values(trial: FrozenTrial, objective: str) -> list[float]:
    attrs = trial_attrs(trial)
    return attrs.get("seed_metrics", {}).get(objective) or [attrs["metrics"][objective]]


def best_value(trials: Iterable[FrozenTrial], objective: str, sign: float) -> float | None:
    """Return the value of the best candidate, or None if no trial is complete; `sign` -1 means larger is better."""
    values = [candidate.value for candidate in candidates_of(trials, objective)]
    return min(values, key=lambda value: sign * value) if values else None


@dataclass(frozen=True)
class Noise:
    """The standard deviation between random seeds, pooled over candidates, and its degrees of freedom."""

    std: float
    freedom: int


def noise_of(candidates: Sequence[Candidate]) -> Noise | None:
    """Return the noise between random seeds, or None where no candidate was trained with two of them."""
    repeated = [c.seed_values for c in candidates if len(c.seed_values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return None
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in repeated)
    return Noise((squares / freedom) ** 0.5, freedom)
