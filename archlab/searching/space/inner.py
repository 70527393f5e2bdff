"""Inner search: the settings that every candidate must have tuned by itself, such as its learning rate."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from archlab.config.domains import Choice, Count, Domain, Interval, Tie, parse_domain
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.schema import coerce
from archlab.errors import ConfigError
from archlab.searching.space.validation import validate_space
from archlab.searching.variants import selectors
from archlab.searching.variants.parameters import SearchParameter, resolve_parameter
from archlab.searching.variants.references import sort_paths
from archlab.searching.variants.variant import Varied, start

_TRIALS = "trials"


@dataclass(frozen=True)
class Inner:
    """The settings that are tuned for each candidate, and the number of runs that each candidate has for it."""

    domains: Mapping[str, Domain | None]
    trials: int


def parse_inner(data: Any, vary: Mapping[str, Varied]) -> Inner | None:
    """Read the `inner:` section; raise ConfigError for a setting that `vary` has as well."""
    if data is None:
        return None
    if not isinstance(data, Mapping) or not all(isinstance(path, str) for path in data):
        raise ConfigError("inner", f"{data!r} is not a mapping of paths to values, and of trials to a number")
    domains = {path: _parse_domain(value, path) for path, value in data.items() if path != _TRIALS}
    if not domains:
        raise ConfigError("inner", "names nothing to tune: add a path such as train.lr")
    for path in domains:
        if path in vary:
            raise ConfigError(f"inner.{path}", "is varied too: a setting is a candidate's own, or tuned for it")
        if path == "train.seed":
            raise ConfigError(f"inner.{path}", "is luck, which is not tuned; study.runs_per_trial measures it")
    trials = coerce(data.get(_TRIALS), Count, f"inner.{_TRIALS}")
    return Inner({path: domains[path] for path in sort_paths(domains)}, trials)


def _parse_domain(value: Any, path: str) -> Domain | None:
    if selectors.first_selector(path):
        raise ConfigError(f"inner.{path}", "is of single layers: a tuned knob has one value for a candidate")
    domain = None if value == "auto" else parse_domain(value, f"inner.{path}")
    if isinstance(domain, Tie):
        raise ConfigError(f"inner.{path}", "same_as: a tie follows another knob, and is not tuned; write it below vary")
    return domain


def check_inner(inner: Inner | None, base: UnresolvedExperiment, vary: Mapping[str, Varied]) -> None:
    """Raise ConfigError for a tuned setting that does not exist whatever the choices, and for invalid values."""
    if inner is None:
        return
    try:
        validate_space({**vary, **inner.domains}, base)
    except ConfigError as error:
        path = error.path.removeprefix("vary.")
        is_inner = any(path == own or path.startswith((f"{own}.", f"{own}[")) for own in inner.domains)
        raise ConfigError(f"inner.{path}" if is_inner else error.path, error.problem) from None


def inner_values(inner: Inner | None, candidate: UnresolvedExperiment, seed: int) -> list[dict[str, Any]]:
    """Return the settings of each run of a candidate, by path: at most `inner.trials` different ones.

    All combinations of choices where they are few enough; else a Latin hypercube, the middle of each cell, so that
    every candidate that has the same settings is tuned over the same values.
    """
    if inner is None:
        return [{}]
    variant = start(candidate, (), "inner")
    found = (resolve_parameter(path, domain, variant) for path, domain in inner.domains.items())
    parameters = [parameter for parameter in found if parameter is not None]
    rows = _all_combinations(parameters, inner.trials) or list(_latin_hypercube(parameters, inner.trials, seed))
    return [row for index, row in enumerate(rows) if row not in rows[:index]] or [{}]


def _all_combinations(parameters: list[SearchParameter], most: int) -> list[dict[str, Any]]:
    domains = [parameter.domain for parameter in parameters]
    choices = [domain.values for domain in domains if isinstance(domain, Choice)]
    if len(choices) < len(domains) or math.prod(map(len, choices)) > most:
        return []
    names = [parameter.path for parameter in parameters]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices)]


def _latin_hypercube(parameters: list[SearchParameter], runs: int, seed: int) -> Iterator[dict[str, Any]]:
    cells = {}
    for parameter in parameters:
        # By its path and not by its position: a candidate that lacks another setting is tuned over the same values.
        order = list(range(runs))
        random.Random(f"{seed}:{parameter.path}").shuffle(order)
        cells[parameter.path] = order
    for run in range(runs):
        yield {each.path: _value(each, (cells[each.path][run] + 0.5) / runs) for each in parameters}


def _value(parameter: SearchParameter, share: float) -> Any:
    domain = parameter.domain
    if isinstance(domain, Choice):
        return domain.values[int(share * len(domain.values))]
    value = _between(domain, share)
    if domain.step is not None:
        value = domain.low + round((value - domain.low) / domain.step) * domain.step
        value = value if value <= domain.high else value - domain.step
    if parameter.is_integer:
        return min(max(round(value), math.ceil(domain.low)), math.floor(domain.high))
    return float(f"{value:.6g}") if domain.step is None else value


def _between(domain: Interval, share: float) -> float:
    if domain.log:
        return float(domain.low * (domain.high / domain.low) ** share)
    return domain.low + (domain.high - domain.low) * share
