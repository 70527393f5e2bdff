"""A rung's experiments: solved once, kept in the ladder's directory, and read from there by a resumed ladder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from archlab.config.experiment import Experiment, load
from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, ConfigError
from archlab.modeling.build import validate
from archlab.modeling.cost import estimate_cost
from archlab.searching.ladder.candidates import at_rung, built_at, nominal_params
from archlab.searching.ladder.config import Candidate, Ladder, Rung
from archlab.searching.ladder.forecasting import Aim
from archlab.searching.ladder.runs import EXPERIMENT, LadderRun, candidate_dir, plan_runs
from archlab.searching.ladder.shrink import shrink
from archlab.storage.files import write_text
from archlab.storage.json_values import is_finite

COSTS = "costs.json"
TOO_LATE = "left out: the rehearsal's time was over"


@dataclass(frozen=True)
class Entrant:
    """A candidate at a rung: its experiment without a seed, and its counted costs."""

    candidate: Candidate
    experiment: Experiment
    params: int
    flops_per_token: float


@dataclass(frozen=True)
class RungPlan:
    """A rung with its entrants and runs, trunks before branches, and the size that it is meant to have."""

    rung: Rung
    aim: Aim
    entrants: dict[str, Entrant]
    runs: tuple[LadderRun, ...]


def plan_rung(
    ladder: Ladder,
    rung: Rung,
    candidates: list[Candidate],
    folder: Path,
    is_late: Callable[[], bool] = lambda: False,
) -> tuple[RungPlan, dict[str, str]]:
    """Return the plan of a rung, and the reasons of candidates that cannot be built at its size, or came too late.

    A named candidate that cannot be built is a mistake and raises ConfigError; one that was drawn drops out.
    """
    entrants: dict[str, Entrant] = {}
    problems: dict[str, str] = {}
    for candidate in candidates:
        if len(entrants) > 1 and is_late():
            problems[candidate.name] = TOO_LATE
            continue
        try:
            entrants[candidate.name] = _entrant(ladder, rung, candidate, folder)
        except ConfigError as error:
            is_stored = error.source.startswith(str(folder))  # and damaged: no reason to drop the candidate
            if candidate in ladder.named or is_stored:
                raise
            problems[candidate.name] = f"{error.path}: {error.problem}"
    runs = [r for e in entrants.values() for r in plan_runs(ladder, rung, e.candidate.name, e.experiment, folder)]
    return RungPlan(rung, _aim(ladder, rung, entrants), entrants, tuple(runs)), problems


def _aim(ladder: Ladder, rung: Rung, entrants: dict[str, Entrant]) -> Aim:
    trains = [entrant.experiment.train for entrant in entrants.values()]
    tokens = max((t.steps * t.batch_size * t.accumulate * t.context for t in trains), default=1)
    if ladder.is_rehearsal:  # whose models are not those of the rung
        return Aim(max((float(entrant.params) for entrant in entrants.values()), default=1.0), float(tokens))
    return Aim(nominal_params(ladder, rung), float(tokens))


def _entrant(ladder: Ladder, rung: Rung, candidate: Candidate, folder: Path) -> Entrant:
    file = candidate_dir(folder, rung.number, candidate.name) / EXPERIMENT
    if file.is_file():
        experiment = load(file, recorded=True)
    else:
        with built_at(ladder, candidate, rung.path):
            experiment = _build(ladder, rung, candidate, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, experiment.to_yaml())
    return Entrant(candidate, experiment, *_costs(experiment, file.with_name(COSTS)))


def _build(ladder: Ladder, rung: Rung, candidate: Candidate, folder: Path) -> Experiment:
    experiment = at_rung(ladder, candidate, rung)
    validate(experiment)
    if not ladder.is_rehearsal:
        return experiment
    plan_runs(ladder, rung, candidate.name, experiment, folder)  # a mistake in the real ones is found as well
    return shrink(experiment, rung, len(ladder.rungs), ladder.branches)


def _costs(experiment: Experiment, file: Path) -> tuple[int, float]:
    """Return parameters without embeddings and FLOPs a token, traced once and kept beside the experiment."""
    if not file.is_file():
        cost = estimate_cost(experiment)
        write_text(file, json.dumps({"params": cost.params_non_embedding, "flops_per_token": cost.flops_per_token}))
    found = read_object(file, "the costs of an experiment")
    if not all(is_finite(found.get(name)) for name in ("params", "flops_per_token")):
        raise ArchlabError(f"{file}: holds no costs of an experiment")
    return int(found["params"]), float(found["flops_per_token"])
