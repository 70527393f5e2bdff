"""A fair comparison of choices: each gets the same number of trials, then the better half of them more."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archlab.config.domains import Choice, Interval
from archlab.config.experiment import UnresolvedExperiment
from archlab.errors import ConfigError, did_you_mean
from archlab.searching.variants import selectors
from archlab.searching.variants.experiment_values import express
from archlab.searching.variants.parameter_names import encode_choice
from archlab.searching.variants.parameters import resolve_parameter
from archlab.searching.variants.variant import Varied, start

UNFIT_SAMPLERS = ("brute_force", "nsga2", "nsga3")  # their memory is of the study, not of a choice
UNFIT_PRUNERS = ("hyperband",)  # reads the trials of all choices from the storage


@dataclass(frozen=True)
class Arm:
    """One choice of the compared paths; `label` identifies it in the study."""

    label: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """How many choices take part in a round, and how many trials each of them gets."""

    choices: int
    trials: int


def parse_compare(data: Any, vary: Mapping[str, Varied]) -> tuple[str, ...]:
    """Read `compare:`, a varied path or a list of them."""
    listed = [] if data is None else [data] if isinstance(data, str) else data
    if not isinstance(listed, list) or not all(isinstance(path, str) for path in listed):
        raise ConfigError("compare", f"{data!r} is not a varied path, nor a list of them")
    for path in listed:
        if path not in vary:
            raise ConfigError("compare", f"{path} is not varied{did_you_mean(path, list(vary))}")
        if vary[path] is not None and not isinstance(vary[path], Choice):
            kind = "a range of values and " if isinstance(vary[path], Interval) else ""
            raise ConfigError("compare", f"{path} has {kind}no list of choices")
        if selectors.first_selector(path):
            raise ConfigError("compare", f"{path} is of single layers, not one choice of a whole model")
    if len(set(listed)) < len(listed):
        raise ConfigError("compare", "names a path twice")
    return tuple(listed)


def with_base_choices(
    compare: Sequence[str], vary: Mapping[str, Varied], base: UnresolvedExperiment
) -> dict[str, Varied]:
    """Return the domains with the base experiment's own choice among the compared ones.

    A base whose layers differ from each other has no choice of its own: it is the baseline only.
    """
    complete = dict(vary)
    for path in compare:
        domain = vary[path]
        assert domain is None or isinstance(domain, Choice)
        parameter = resolve_parameter(path, domain, start(base, (), "compare"))
        if parameter is None or not isinstance(parameter.domain, Choice):
            raise ConfigError("compare", f"{path} has no list of choices in the base experiment")
        complete[path] = parameter.domain
        values, _ = express({key: complete[key] for key in vary}, base, base)
        own = [base.get(place) for place in base.expand(path)]
        if path not in values and own and own[0] is not None and all(value == own[0] for value in own):
            complete[path] = Choice((*parameter.domain.values, own[0]))
    return complete


def arms(compare: Sequence[str], vary: Mapping[str, Varied]) -> list[Arm]:
    """Return every combination of the compared choices."""
    domains = [domain.values for path in compare if isinstance(domain := vary[path], Choice)]
    return [_arm(dict(zip(compare, values, strict=True))) for values in itertools.product(*domains)]


def _arm(values: Mapping[str, Any]) -> Arm:
    encoded = {path: encode_choice(value) for path, value in values.items()}
    return Arm(json.dumps(encoded, sort_keys=True), values)


def plan_rounds(trials: int, choices: int) -> list[Round]:
    """Divide a number of trials evenly among rounds, and each round's evenly among the choices that are left.

    Half of the choices, rounded up, are left after each round, down to two, as long as there are trials for another
    round. A remainder is not used.
    Raises ConfigError where there is not one trial for each choice.
    """
    if trials < choices:
        raise ConfigError("study.trials", f"{trials} are too few to compare {choices} choices: each needs one")
    sizes = [choices]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    sizes = [size for number, size in enumerate(sizes) if sum(sizes[: number + 1]) <= trials]
    rounds: list[Round] = []
    for number, size in enumerate(sizes):
        left = trials - sum(each.choices * each.trials for each in rounds)
        rounds.append(Round(size, max(left // (len(sizes) - number) // size, 1)))
    return rounds
