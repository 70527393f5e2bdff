"""A target cost for every model of a search, reached by solving for the value of one knob."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from archlab.config import paths
from archlab.config.domains import LARGEST, Count, Range
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError
from archlab.searching.variants import selectors
from archlab.searching.variants.bisection import Bisection
from archlab.searching.variants.cost_request import PARAMETER_COUNTS, CostRequest, CountCosts, count_costs
from archlab.searching.variants.layer_lists import is_layer_list, layer_entries, merge_repeats, resize

METRICS = (*PARAMETER_COUNTS, "flops_per_token", "memory_per_device", "state_bytes")
TOLERANCE = 0.05
_OPTIONS = ("by", "tolerance", "low", "high", "multiple_of")
_Target = Annotated[float, Range(low=0, above=True, high=1e30)]
_Tolerance = Annotated[float, Range(low=0, above=True, high=1)]


@dataclass(frozen=True)
class Hold:
    """A cost and its target, and the path `by` of the whole number that is solved for.

    The number is from `low` to `high` and a multiple of `multiple_of`; a cost within `tolerance` of the target, as a
    share of it, will do. Where `by` is a list of layers, the number is that of its layers.
    """

    metric: str
    target: float
    by: str
    tolerance: float = TOLERANCE
    low: int = 1
    high: int = LARGEST
    multiple_of: int = 1

    @property
    def name(self) -> str:
        """The budget as text, as it is named among constraints."""
        return f"{self.metric} = {self.target:g} by {self.by}"

    @property
    def is_quick(self) -> bool:
        """Whether the held cost can be counted without a trace of a training step."""
        return self.metric in PARAMETER_COUNTS

    def cost(self, raw: UnresolvedExperiment, count: CountCosts = count_costs) -> float:
        """Return the held cost of an experiment; raise ConfigError if it has no model."""
        return float(count(CostRequest(raw, parameters_only=self.is_quick))[self.metric])


@dataclass(frozen=True)
class Solution:
    """The number that was found, and the cost with it; `excess` is how far that is beyond the tolerance, if above 0."""

    value: int
    cost: float
    excess: float


def parse_hold(data: Any, path: str) -> Hold:
    """Check a `hold:` mapping: one cost with its target, `by`, and options; raise ConfigError otherwise."""
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"{data!r} is not a mapping such as {{params: 1.0e6, by: model.dim}}")
    reject_unknown(data, (*METRICS, *_OPTIONS), path)
    metrics = [key for key in data if key in METRICS]
    if len(metrics) != 1:
        raise ConfigError(path, f"holds one cost, of {', '.join(METRICS)}")
    if not isinstance(by := data.get("by"), str) or not by:
        raise ConfigError(f"{path}.by", f"{by!r} is not the path of a whole number, such as model.dim")
    if selectors.first_selector(by):
        raise ConfigError(f"{path}.by", f"{by} stands for several numbers, of which one is solved for; take [*]")
    counts = {key: coerce(data[key], Count, f"{path}.{key}") for key in ("low", "high", "multiple_of") if key in data}
    hold = Hold(
        metric=metrics[0],
        target=coerce(data[metrics[0]], _Target, f"{path}.{metrics[0]}"),
        by=by,
        tolerance=coerce(data.get("tolerance", TOLERANCE), _Tolerance, f"{path}.tolerance"),
        **counts,
    )
    if hold.low > hold.high or hold.high // hold.multiple_of * hold.multiple_of < hold.low:
        raise ConfigError(f"{path}.low", f"no multiple of {hold.multiple_of} is from {hold.low} to {hold.high}")
    return hold


def solve(raw: UnresolvedExperiment, hold: Hold) -> dict[str, Any]:
    """Return the values to override an experiment with for it to cost the target.

    Raises ConfigError if nothing comes within the tolerance, naming the nearest.
    """
    solution = solve_by(hold, partial(_with_number, raw, hold.by), number(raw, hold.by))
    require_within(solution, hold, "hold")
    return _override(raw, hold.by, solution.value)


def require_within(solution: Solution, hold: Hold, path: str) -> None:
    """Raise ConfigError if a solution is not within the tolerance."""
    if solution.excess > 0:
        raise ConfigError(path, describe_miss(solution, hold))


def describe_miss(solution: Solution, hold: Hold) -> str:
    """Return the nearest solution in words, for one that is not within the tolerance."""
    near = f"the nearest is {solution.cost:g} with {hold.by} {solution.value}"
    return f"no {hold.by} gives {hold.metric} {hold.target:g} within {hold.tolerance:.3g} of it: {near}"


def number(raw: UnresolvedExperiment, by: str) -> int:
    """Return the number that an experiment has at `by`; raise ConfigError if there is none, or several."""
    if "*" not in by and is_layer_list(by, raw):
        return len(layer_entries(raw, by))
    tree = raw.resolve().resolved
    places = [place for place in raw.expand(by) if raw.knob(place)]
    values = {place: paths.get(tree, place) for place in places}
    whole = [v for v in values.values() if isinstance(v, int) and not isinstance(v, bool)]
    if not whole or len(whole) < len(values):
        raise ConfigError("hold.by", f"{by} is not a whole number in {raw.name}")
    return max(whole)


def _with_number(raw: UnresolvedExperiment, by: str, value: int) -> UnresolvedExperiment:
    return raw.override(_override(raw, by, value), "hold")


def _override(raw: UnresolvedExperiment, by: str, value: int) -> dict[str, Any]:
    if "*" not in by and is_layer_list(by, raw):
        return {by: merge_repeats(resize(layer_entries(raw, by), value))}
    return {by: value}


def solve_by(
    hold: Hold,
    build: Callable[[int], UnresolvedExperiment],
    start: int,
    *,
    multiple_of: int = 1,
    most: int = LARGEST,
    count: CountCosts = count_costs,
) -> Solution:
    """Return the number nearest to the target, where `build` makes the experiment with a number.

    Raises ConfigError with the first problem if there is no number with which the model can be built.
    """
    problems: list[ConfigError] = []

    def cost(n: int) -> float | None:
        try:
            return hold.cost(build(n), count)
        except ConfigError as error:
            problems.append(error)
            return None

    # Counting more than parameters takes a forward pass for each number: there the tolerance is made use of.
    close = hold.tolerance / (10 if hold.is_quick else 2)
    step = math.lcm(hold.multiple_of, multiple_of)
    found = Bisection(cost, hold.target, hold.low, min(hold.high, most), step, close).nearest(start)
    if found is None:
        nothing = f"no multiple of {step} is from {hold.low} to {min(hold.high, most)}"
        raise problems[0] if problems else ConfigError("hold", nothing)
    return Solution(*found, abs(found[1] / hold.target - 1) - hold.tolerance)
