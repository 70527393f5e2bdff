"""Results of each choice of a search, and whether choices differ by more than the noise between random seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from archlab.searching.sampling.candidates import Candidate, Noise, candidates_of, noise_of
from archlab.searching.space.listed_choices import listed_choices
from archlab.searching.space.search_space import Space
from archlab.searching.study.study import is_interrupted
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.searching.variants.parameter_names import encode_choice

BEST, WITHIN, WORSE, UNKNOWN, NONE = "best", "within noise", "worse", "noise unknown", "none complete"
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 10: 2.228, 15: 2.131, 30: 2.042, 100: 1.984}


@dataclass(frozen=True)
class ChoiceResult:
    """The trials of one choice; values are those of the first objective, `spread` is the interquartile range.

    `difference` is how much worse the best candidate is than that of the best choice, `verdict` whether that is more
    than noise. `runs` and `tokens` are those spent on the choice.
    """

    choice: str
    tried: int
    complete: int
    runs: int
    tokens: int
    best: float | None
    best_trial: int | None
    median: float | None
    spread: float | None
    difference: float | None
    verdict: str


@dataclass(frozen=True)
class PathResult:
    """The choices of one varied path, the best first; `noise` is the standard deviation between random seeds."""

    path: str
    objective: str
    is_compared: bool
    noise: float | None
    choices: list[ChoiceResult]
    notes: list[str]


def choice_results(space: Space, trials: Sequence[FrozenTrial]) -> list[PathResult]:
    """Return the results of every varied path that has a list of choices, the compared ones first."""
    begun = [trial for trial in trials if trial.state != TrialState.WAITING and not is_interrupted(trial)]
    noise = noise_of(candidates_of(begun, space.objective))
    paths = [*space.compare, *(path for path in space.vary if path not in space.compare)]
    return [
        _path_result(path, choices, space, begun, noise)
        for path in paths
        if (choices := _choices(path, space, begun)) and len(choices) > 1
    ]


def _choices(path: str, space: Space, begun: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Return the choices of a path by their labels: those of the space, else those that were tried."""
    listed = listed_choices(space, path)
    if listed is not None:
        return {str(encode_choice(value)): value for value in listed}
    tried = [trial_attrs(trial).get("values", {}) for trial in begun]  # a knob that the base experiment lacks
    values = [values[path] for values in tried if path in values]
    return {} if any(isinstance(v, float) for v in values) else {str(encode_choice(value)): value for value in values}


def _path_result(
    path: str, choices: Mapping[str, Any], space: Space, begun: Sequence[FrozenTrial], noise: Noise | None
) -> PathResult:
    own = {
        label: [t for t in begun if str(encode_choice(trial_attrs(t).get("values", {}).get(path, _ABSENT))) == label]
        for label in choices
    }
    names = _names(choices)
    candidates = {label: candidates_of(trials, space.objective) for label, trials in own.items()}
    best = {label: min(each, key=lambda c: space.sign * c.value, default=None) for label, each in candidates.items()}
    first = min((c for c in best.values() if c), key=lambda c: space.sign * c.value, default=None)
    rows = [
        _choice_result(names[label], own[label], candidates[label], best[label], (first, noise, space.sign))
        for label in choices
    ]
    rows.sort(key=lambda row: (row.difference is None, row.difference or 0.0))
    is_compared = path in space.compare
    return PathResult(
        path, space.objective, is_compared, noise.std if noise else None, rows, _notes(rows, is_compared, noise, path)
    )


_ABSENT = "\0"


def _choice_result(
    name: str,
    trials: Sequence[FrozenTrial],
    candidates: Sequence[Candidate],
    own: Candidate | None,
    other: tuple[Candidate | None, Noise | None, float],
) -> ChoiceResult:
    first, noise, sign = other
    values = sorted(candidate.value for candidate in candidates)
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else None
    return ChoiceResult(
        choice=name,
        tried=len(trials),
        complete=sum(trial.state == TrialState.COMPLETE for trial in trials),
        runs=sum(_runs(trial) for trial in trials),
        tokens=int(sum(trial_attrs(trial).get("spent", {}).get("tokens", 0) for trial in trials)),
        best=own.value if own else None,
        best_trial=own.trials[0] if own else None,
        median=statistics.median(values) if values else None,
        spread=quartiles[2] - quartiles[0] if quartiles else None,
        difference=sign * (own.value - first.value) if own and first else None,
        verdict=_verdict(own, first, noise, sign),
    )


def _runs(trial: FrozenTrial) -> int:
    attrs = trial_attrs(trial)
    seeds = max((len(values) for values in attrs.get("seed_metrics", {}).values()), default=1)
    return len(attrs.get("runs", [{}])) + seeds - 1


def _verdict(own: Candidate | None, first: Candidate | None, noise: Noise | None, sign: float) -> str:
    if own is None or first is None:
        return NONE
    if own is first:
        return BEST
    if noise is None:
        return UNKNOWN
    return WORSE if sign * (own.value - first.value) > significant_difference(noise, own, first) else WITHIN


def significant_difference(noise: Noise, one: Candidate, other: Candidate) -> float:
    """Return the difference of two candidates' means that random seeds alone exceed once in twenty times."""
    quantile = _T[max(freedom for freedom in _T if freedom <= noise.freedom)]
    return quantile * noise.std * (1 / len(one.seed_values) + 1 / len(other.seed_values)) ** 0.5


def _notes(rows: Sequence[ChoiceResult], is_compared: bool, noise: Noise | None, path: str) -> list[str]:
    notes = []
    if noise is None:
        notes.append("noise unknown: each candidate has one random seed; study.runs_per_trial=3 would measure it")
    else:
        notes.append(
            f"noise between random seeds: a standard deviation of {noise.std:.4g} ({noise.freedom} degrees of freedom)"
        )
    if not is_compared and len({row.tried for row in rows}) > 1:
        notes.append(f"not tried equally often, so the best of more has an advantage; compare: {path} is fair")
    return notes


def _names(choices: Mapping[str, Any]) -> dict[str, str]:
    """Return the short name of each choice: the component's type where that identifies it."""
    types = {
        label: str(value.get("type", label)) if isinstance(value, Mapping) else label
        for label, value in choices.items()
    }
    names = list(types.values())
    return {label: name if names.count(name) == 1 else label for label, name in types.items()}
