"""A trial's values: those that the sampler suggests, and the one that `hold` then solves for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import Trial

from archlab.config.domains import LARGEST, Interval
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.spec import MAX_REPEATS
from archlab.searching.sampling.suggest import suggest
from archlab.searching.space.search_space import Space
from archlab.searching.variants.apply import apply_values, retie
from archlab.searching.variants.cost_request import CountCosts, count_costs
from archlab.searching.variants.divisors import NoValue
from archlab.searching.variants.hold import Hold, Solution, describe_miss, number, require_within, solve_by
from archlab.searching.variants.layer_lists import is_layer_list
from archlab.searching.variants.pattern import Pattern, parse_value
from archlab.searching.variants.variant import HELD, Varied


@dataclass(frozen=True)
class TrialValues:
    """The values of a trial by path, and why it is infeasible, if it is."""

    values: dict[str, Any]
    problem: str = ""


def choose_values(trial: Trial, space: Space) -> dict[str, Any]:
    """Return the sampler's suggestions for a new trial; raise NoValue if a knob has no possible value."""
    try:
        return suggest(trial, space.varied, space.base, exhaustive=space.study.sampler.type == "brute_force")
    except NoValue:
        trial.set_constraint("divides", 1.0)
        raise


def solve_held(trial: Trial, space: Space, values: dict[str, Any], count: CountCosts = count_costs) -> TrialValues:
    """Return a trial's values and those that `hold` solves for; report to the sampler if the cost is out of reach."""
    if space.hold is None:
        return TrialValues(values)
    held, solution = hold_values(space, values, space.base, f"trial {trial.number}", count=count)
    trial.set_constraint(space.hold.name, solution.excess)
    return TrialValues(held, describe_miss(solution, space.hold) if solution.excess > 0 else "")


def base_number(space: Space) -> int:
    """Return the base experiment's value of the knob that `hold` solves for."""
    _, solution = hold_values(space, {}, space.base, space.source)
    return solution.value


def held_base(space: Space) -> UnresolvedExperiment:
    """Return the base experiment at the cost that is held; raise ConfigError naming the nearest if there is none."""
    if space.hold is None:
        return space.base
    values, solution = hold_values(space, {}, space.base, space.source)
    require_within(solution, space.hold, "hold")
    # Of the base's own layers: only trials have a pattern.
    return apply_values({space.hold.by: HELD}, values, space.base, space.source)


def hold_values(
    space: Space,
    values: Mapping[str, Any],
    experiment: UnresolvedExperiment,
    source: str,
    hold: Hold | None = None,
    count: CountCosts = count_costs,
) -> tuple[dict[str, Any], Solution]:
    """Return a trial's values with the one that is solved for an experiment's cost, and the solution.

    `hold` is that of the space unless given, as for a rung.
    """
    hold = hold or space.hold
    assert hold is not None
    by = hold.by
    varied: dict[str, Varied] = {**space.vary, **({} if by in values and by in space.vary else {by: HELD})}

    def with_number(n: int) -> dict[str, Any]:
        pattern = varied[by]
        if not isinstance(pattern, Pattern) or by not in values:
            return {**values, by: n}
        return {**values, by: str(replace(parse_value(values[by], pattern, by), depth=n))}

    def build(n: int) -> UnresolvedExperiment:
        return apply_values(varied, with_number(n), experiment, source)

    start = number(apply_values(varied, values, experiment, source), by)
    limit = MAX_REPEATS if is_layer_list(by, experiment) else LARGEST
    step = math.lcm(*_divisors(space, values, by))
    solution = solve_by(hold, build, start, multiple_of=step, most=limit, count=count)
    return retie(varied, with_number(solution.value), experiment, source), solution


def _divisors(space: Space, values: Mapping[str, Any], by: str) -> Iterator[int]:
    """Yield the values that must divide the solved value."""
    for path, value in values.items():
        domain = space.vary.get(path)
        if isinstance(domain, Interval) and domain.divides == by:
            yield from (n for n in (value if isinstance(value, list) else [value]) if n)
