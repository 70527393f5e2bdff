"""Constraints on costs, such as `params <= 4e6`, checked before a trial trains, also at another model size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from archlab.config.schema import reject_unknown
from archlab.errors import ConfigError
from archlab.searching.variants.cost_request import Costs
from archlab.searching.variants.planned import PLACE_KEYS, Place, TrialCosts, parse_place, require_known

_PATTERN = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A bound on a cost; `place` is another experiment or a device, at which a trial's choices are costed."""

    text: str
    metric: str
    operator: str
    bound: float
    place: Place | None = None

    @property
    def name(self) -> str:
        """The constraint as text, with the experiment and the device that it applies to."""
        return f"{self.text} {self.place}" if self.place else self.text

    def violation(self, costs: Costs) -> float:
        """Return the violation relative to the bound, as Optuna expects it: 0 or less if the constraint holds."""
        excess = costs[self.metric] - self.bound
        excess = excess if self.operator.startswith("<") else -excess
        if excess == 0 and len(self.operator) == 1:  # equality violates < and >, and Optuna allows 0
            excess = math.ulp(self.bound)
        return excess / (abs(self.bound) or 1.0)

    def problem(self, costs: TrialCosts) -> str:
        """Return in words how a trial violates the constraint, or nothing."""
        found = costs.at(self.place)
        return f"{self.name} is violated: {self.metric} is {found[self.metric]:g}" if self.violation(found) > 0 else ""


def problems_of(constraints: Sequence[Constraint], costs: TrialCosts) -> str:
    """Return in words which constraints a trial violates, or nothing."""
    return "; ".join(filter(None, (constraint.problem(costs) for constraint in constraints)))


def parse_constraints(
    data: Any, costs: Sequence[str], folder: Path, *, recorded: bool = False
) -> tuple[Constraint, ...]:
    """Read the `constraints:` list; raise ConfigError for an entry that is not a bound on a cost."""
    if data is not None and not isinstance(data, list):
        raise ConfigError("constraints", f"{data!r} is not a list")
    return tuple(
        _parse(entry, costs, folder, f"constraints[{index}]", recorded) for index, entry in enumerate(data or [])
    )


def _parse(entry: Any, costs: Sequence[str], folder: Path, path: str, recorded: bool) -> Constraint:
    if not isinstance(entry, Mapping):
        return _parse_bound(entry, costs, path)
    reject_unknown(entry, (*PLACE_KEYS, "require"), path)
    place = parse_place(entry, path, folder, recorded=recorded)
    return replace(_parse_bound(entry.get("require"), costs, f"{path}.require", place), place=place)


def _parse_bound(text: Any, costs: Sequence[str], path: str, place: Place | None = None) -> Constraint:
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(path, f"{text!r} is not a bound such as 'params <= 4e6'")
    metric, operator, number = match.groups()
    require_known(metric, place, costs, path)
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ConfigError(path, f"{number!r} is not a number")
    return Constraint(" ".join(text.split()), metric, operator, bound)
