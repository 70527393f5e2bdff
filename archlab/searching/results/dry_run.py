"""The estimated cost of a search, from plans of a sample of its candidates; nothing is trained or written."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from archlab.config.experiment import UnresolvedExperiment
from archlab.errors import ArchlabError, ConfigError
from archlab.planning.evaluations import evaluated_tokens
from archlab.planning.plan import plan
from archlab.searching.sampling.combinations import Combinations, steps_of
from archlab.searching.sampling.suggest import suggest
from archlab.searching.sampling.trial_values import held_base, hold_values
from archlab.searching.space.compare import arms, plan_rounds
from archlab.searching.space.constraints import problems_of
from archlab.searching.space.inner import inner_values
from archlab.searching.space.listed_choices import listed_choices
from archlab.searching.space.search_space import Space
from archlab.searching.space.tasks import task_experiments
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.divisors import NoValue
from archlab.searching.variants.hold import describe_miss
from archlab.searching.variants.parameter_names import Scalar
from archlab.searching.variants.planned import TrialCosts

_DRAWS, _MOST_CHOICES = 6, 40
_GIGABYTE, _LOG_BYTES = 1e9, 50_000  # metrics.jsonl and experiment.yaml of a run, about


@dataclass(frozen=True)
class DryRun:
    """The cost of a search, one trial after the other and without pruning: `runs` of training, the baseline's included.

    `hours` is the mean candidate's time, `slowest_hours` that if each were like the slowest of the sample. `rounds` are
    the choices and trials of a comparison. `sampled` candidates were planned, and `infeasible` others not, for the
    reasons in `problems`.
    """

    device: str
    devices: int
    trials: int
    runs: int
    tokens: float
    hours: float
    slowest_hours: float
    device_hours: float
    gigabytes: float
    rounds: list[tuple[int, int]]
    sampled: int
    infeasible: int
    problems: list[str]


@dataclass(frozen=True)
class _Candidate:
    seconds: float  # on all tasks, as the next
    tokens: float
    weight_bytes: int
    checkpoint_bytes: int
    runs: int  # on one task


def dry_run(space: Space, trials: int | None = None, *, device: str = "cpu", devices: int = 1) -> DryRun:
    """Estimate a search on `devices` devices; raise ConfigError where the base cannot be planned.

    Raises ArchlabError for a ladder.
    """
    if space.is_ladder:
        raise ArchlabError(f"{space.source}: has rungs, which are estimated one by one")
    asked = _num_trials(space, trials if trials is not None else space.study.trials)
    rounds = plan_rounds(asked, len(arms(space.compare, space.vary))) if space.compare else []
    count = sum(each.choices * each.trials for each in rounds) or asked
    base = _plan_candidate(space, held_base(space), device, devices)
    sample, problems = [base], list[str]()
    for values in _sample(space):
        try:
            sample.append(_plan_candidate(space, _feasible(space, values), device, devices))
        except ConfigError as error:  # such a trial fails, or is infeasible, before its first step
            problems.append(f"{error.path}: {error.problem}")
    seconds = [each.seconds * each.runs for each in sample]
    own, tasks = base.seconds * space.study.runs_per_trial, len(space.tasks) or 1
    hours = (own + count * statistics.fmean(seconds)) / 3600
    return DryRun(
        device=device,
        devices=devices,
        trials=count,
        runs=tasks * (space.study.runs_per_trial + round(count * statistics.fmean(each.runs for each in sample))),
        tokens=base.tokens * space.study.runs_per_trial + count * statistics.fmean(c.tokens * c.runs for c in sample),
        hours=hours,
        slowest_hours=(own + count * max(seconds)) / 3600,
        device_hours=hours * devices,
        gigabytes=_disk(space, sample, count) / _GIGABYTE,
        rounds=[(each.choices, each.trials) for each in rounds],
        sampled=len(sample),
        infeasible=len(problems),
        problems=list(dict.fromkeys(problems)),
    )


def _num_trials(space: Space, asked: int) -> int:
    """Return how many trials there are of those asked for: brute force ends when it has tried every combination."""
    if space.study.sampler.type != "brute_force":
        return asked
    every = Combinations(space)
    found = next((number for number in range(asked) if every.get(number) is None), asked)
    return min(asked, found + len(space.seeds))


def _plan_candidate(space: Space, raw: UnresolvedExperiment, device: str, devices: int) -> _Candidate:
    settings = inner_values(space.inner, raw, space.study.seed)
    raw = raw.override(settings[0], "inner")
    every = [one.resolve() for one in task_experiments(space.tasks, raw).values()] or [raw.resolve()]
    # The first is planned for all: tasks differ mostly in the number of their tokens.
    planned = plan(every[0], device=device, devices=devices)
    tokens = sum(each.train.steps * each.train.tokens_per_step for each in every)
    forward = planned.flops_per_token_forward / planned.flops_per_token
    weights = 4 * planned.params
    return _Candidate(
        seconds=(tokens + forward * sum(map(evaluated_tokens, every))) / planned.tokens_per_s,
        tokens=tokens,
        weight_bytes=weights,
        checkpoint_bytes=planned.checkpoint_bytes,
        runs=len(settings) + space.study.runs_per_trial - 1,
    )


def _disk(space: Space, sample: list[_Candidate], trials: int) -> float:
    """Return the bytes at the end: kept trials, best/ and the baseline, and the checkpoints of a running trial."""
    models, runs = min(space.study.keep, trials) + 2, trials * space.runs_per_trial + space.study.runs_per_trial
    checkpoints = space.base.resolve().train.keep_checkpoints
    # A trial of a single run keeps its last checkpoints beside its model, one of several only the model.
    resumable = models if space.runs_per_trial == 1 else 1
    weights, checkpoint = max(each.weight_bytes for each in sample), max(each.checkpoint_bytes for each in sample)
    return models * weights + resumable * checkpoints * checkpoint + runs * _LOG_BYTES


def _sample(space: Space) -> Iterator[Mapping[str, Any]]:
    """Yield the values of candidates: the base experiment with each choice, then random draws."""
    seen = 0
    for path in [*space.compare, *(path for path in space.vary if path not in space.compare)]:
        for value in listed_choices(space, path) or ():
            seen += 1
            if seen <= _MOST_CHOICES:
                yield {path: value}
    for draw in range(_DRAWS):
        with suppress(NoValue):
            yield suggest(_RandomTrial(random.Random(f"{space.study.seed}:{draw}")), space.varied, space.base)


def _feasible(space: Space, values: Mapping[str, Any]) -> UnresolvedExperiment:
    if space.hold:
        values, solution = hold_values(space, values, space.base, "dry run")
        if solution.excess > 0:
            raise ConfigError("hold", describe_miss(solution, space.hold))
    raw = apply_values(space.varied, values, space.base, "dry run")
    if problems := problems_of(space.constraints, TrialCosts(raw, values, space.varied)):
        raise ConfigError("constraints", problems)
    return raw


class _RandomTrial:
    """Suggests uniformly, as a sampler does before it knows anything."""

    def __init__(self, source: random.Random) -> None:
        self.source = source

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        """Return one of the choices."""
        return self.source.choice(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Return an integer of the range."""
        return round(self._between(low, high)) if log else self.source.randrange(low, high + 1, step)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Return a float of the range, or one of its steps."""
        if step is not None:
            return self.source.choice(steps_of(low, high, step))
        return self._between(low, high) if log else self.source.uniform(low, high)

    def _between(self, low: float, high: float) -> float:
        return float(low * (high / low) ** self.source.random())
