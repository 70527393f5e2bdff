"""The estimated cost of a ladder by rung, from plans of some candidates; nothing is trained or written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from archlab.config.experiment import Experiment
from archlab.errors import ConfigError
from archlab.planning.device_files import load_device
from archlab.planning.evaluations import evaluated_tokens
from archlab.planning.plan import Plan, plan
from archlab.searching.ladder.candidates import (
    all_candidates,
    at_rung,
    at_target,
    built_at,
    infeasible_reason,
    require_experiments,
)
from archlab.searching.ladder.config import Candidate, Ladder, Rung, Target, parse_ladder
from archlab.searching.ladder.runs import LadderRun, plan_runs
from archlab.searching.space.search_space import Space

TARGET = "target"
_PLANNED = 3  # candidates of a rung, by default


@dataclass(frozen=True)
class RungEstimate:
    """The cost of a rung: its runs one after the other, each on the given number of `devices`.

    `tokens` are those of a whole run, `memory` the bytes of the largest candidate on a device; `slowest` is the
    candidate with the longest runs.
    """

    name: str
    params: float
    tokens: float
    candidates: int
    runs: int
    devices: int
    memory: float
    fits: bool
    hours: float
    device_hours: float
    gigabytes: float
    slowest: str


@dataclass(frozen=True)
class LadderDryRun:
    """The cost of a ladder on devices of a kind; the last rung is the target, if it has one, for one candidate.

    `planned` names the candidates from which all others are estimated, `infeasible` others with the reason.
    """

    device: str
    rungs: Sequence[RungEstimate]
    planned: Sequence[str]
    infeasible: dict[str, str]

    @property
    def hours(self) -> float:
        """The hours of all rungs without the target, one run after the other."""
        return sum(rung.hours for rung in self.rungs if rung.name != TARGET)

    @property
    def device_hours(self) -> float:
        """The device-hours of all rungs without the target."""
        return sum(rung.device_hours for rung in self.rungs if rung.name != TARGET)

    @property
    def gigabytes(self) -> float:
        """Bytes on disk after all rungs, with the checkpoints of a run in progress."""
        return sum(rung.gigabytes for rung in self.rungs if rung.name != TARGET)


def dry_run_ladder(
    space: Space, *, device: str = "cpu", devices: int = 1, tell: Callable[[str], None] = lambda line: None
) -> LadderDryRun:
    """Estimate a ladder with at most `devices` devices a run; `tell` is called before each rung is planned.

    From each rung `keep` candidates continue, and as many more as it has `room` for. Raises ConfigError for a named
    candidate that cannot be built or planned.
    """
    ladder = parse_ladder(space)
    require_experiments(ladder)
    load_device(device)  # a mistake of the command line is none of a candidate
    reasons = [(candidate, infeasible_reason(ladder, candidate)) for candidate in all_candidates(ladder)]
    entrants = [candidate for candidate, reason in reasons if not reason]
    if not entrants:
        problem = next((reason for _, reason in reasons), "none could be drawn")
        raise ConfigError("constraints", f"no candidate meets them: {problem}", space.source)
    sample, going, rungs = _sample(entrants), len(entrants), list[RungEstimate]()
    for rung in ladder.rungs:
        tell(f"planning rung {rung.number} of {len(ladder.rungs)}")
        rungs.append(_rung(ladder, rung, sample, going, device, devices))
        going = rung.num_going_on(going)
    if ladder.target is not None:
        tell("planning the target")
        rungs.append(_target(ladder, ladder.target, sample[0], device, devices))
    infeasible = {candidate.name: reason for candidate, reason in reasons if reason}
    return LadderDryRun(device, rungs, [candidate.name for candidate in sample], infeasible)


def _sample(entrants: Sequence[Candidate]) -> list[Candidate]:
    """Return all candidates if they are few, else the first, the last and some between."""
    if len(entrants) <= _PLANNED:
        return [*entrants]
    return [entrants[round(n * (len(entrants) - 1) / (_PLANNED - 1))] for n in range(_PLANNED)]


def _rung(
    ladder: Ladder, rung: Rung, sample: Sequence[Candidate], candidates: int, device: str, devices: int
) -> RungEstimate:
    plans = dict(_plans(ladder, rung, sample, device, devices))
    if not plans:
        names = ", ".join(candidate.name for candidate in sample)
        raise ConfigError(rung.path, f"none of {names} can be built at its size", ladder.space.source)
    runs = {name: plan_runs(ladder, rung, name, made.experiment, Path()) for name, made in plans.items()}
    seconds = {name: sum(_seconds(run, plans[name].plan) for run in each) for name, each in runs.items()}
    used, each = max(made.devices for made in plans.values()), statistics.fmean(seconds.values())
    first = next(iter(plans.values()))
    weights = 4 * statistics.fmean(made.plan.params for made in plans.values())
    # Of a run in progress; afterwards only the model is kept.
    kept = first.experiment.train.keep_checkpoints * statistics.fmean(m.plan.checkpoint_bytes for m in plans.values())
    count = candidates * len(next(iter(runs.values())))
    return RungEstimate(
        name=str(rung.number),
        params=statistics.fmean(made.plan.params_non_embedding for made in plans.values()),
        tokens=float(first.experiment.train.steps * first.experiment.train.tokens_per_step),
        candidates=candidates,
        runs=count,
        devices=used,
        memory=max(made.plan.memory_per_device for made in plans.values()),
        fits=all(made.plan.fits for made in plans.values()),
        hours=candidates * each / 3600,
        device_hours=candidates * each / 3600 * used,
        gigabytes=(weights * count + kept) / 1e9,
        slowest=max(seconds, key=lambda name: seconds[name]),
    )


def _target(ladder: Ladder, target: Target, candidate: Candidate, device: str, devices: int) -> RungEstimate:
    with built_at(ladder, candidate, "to"):
        experiment = at_target(ladder, target, candidate)
    made = _plan_on_most(experiment, device, devices)
    train = experiment.train
    hours = train.steps * made.plan.seconds_per_update / 3600
    return RungEstimate(
        name=TARGET,
        params=made.plan.params_non_embedding,
        tokens=float(train.steps * train.tokens_per_step),
        candidates=1,
        runs=1,
        devices=made.devices,
        memory=made.plan.memory_per_device,
        fits=made.plan.fits,
        hours=hours,
        device_hours=hours * made.devices,
        gigabytes=made.plan.checkpoint_bytes * train.keep_checkpoints / 1e9,
        slowest=candidate.name,
    )


@dataclass(frozen=True)
class _Planned:
    experiment: Experiment
    plan: Plan
    devices: int


def _plans(
    ladder: Ladder, rung: Rung, sample: Sequence[Candidate], device: str, devices: int
) -> Iterator[tuple[str, _Planned]]:
    for candidate in sample:
        try:
            with built_at(ladder, candidate, rung.path):
                made = _plan_on_most(at_rung(ladder, candidate, rung), device, devices)
        except ConfigError:
            if candidate in ladder.named:
                raise
        else:
            yield candidate.name, made


def _plan_on_most(experiment: Experiment, device: str, devices: int) -> _Planned:
    """Plan on as many devices as the sequences of an update can be divided among, halving the number until they can."""
    while True:
        try:
            return _Planned(experiment, plan(experiment, device=device, devices=devices), devices)
        except ConfigError:
            if devices == 1:
                raise
            devices //= 2


def _seconds(run: LadderRun, made: Plan) -> float:
    """Return how long a run takes, with its evaluations."""
    forward = made.flops_per_token_forward / made.flops_per_token
    return run.own_steps * made.seconds_per_update + forward * evaluated_tokens(run.experiment) / made.tokens_per_s
