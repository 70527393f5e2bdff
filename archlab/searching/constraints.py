"""Constraints on costs, such as `params <= 4e6`, checked before a trial trains, also at another model size."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from archlab.config import experiment as config
from archlab.config.schema import reject_unknown
from archlab.errors import ConfigError, did_you_mean
from archlab.modeling.cost import estimate_cost
from archlab.searching import selectors
from archlab.searching.apply import apply_values
from archlab.searching.variant import Varied

Costs: TypeAlias = Mapping[str, float]
_PATTERN = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")
_MODEL = "model"


@dataclass(frozen=True)
class Constraint:
    """A bound on a cost; `at` is another experiment, to which a trial's choices below `model` are applied."""

    text: str
    metric: str
    operator: str
    bound: float
    at: config.UnresolvedExperiment | None = None

    @property
    def name(self) -> str:
        """The constraint as text, with the experiment that it applies to."""
        return f"{self.text} at {self.at.name}" if self.at else self.text

    def violation(self, costs: Costs) -> float:
        """Return the violation relative to the bound, as Optuna expects it: 0 or less if the constraint holds."""
        excess = costs[self.metric] - self.bound
        excess = excess if self.operator.startswith("<") else -excess
        if excess == 0 and len(self.operator) == 1:  # equality violates < and >, and Optuna allows 0
            excess = math.ulp(self.bound)
        return excess / (abs(self.bound) or 1.0)

    def costs(self, own: Costs, values: Mapping[str, Any], varied: Mapping[str, Varied]) -> Costs:
        """Return the costs that this constraint bounds: the trial's own, or those of its choices at another size.

        `varied` are the domains of the values.
        """
        if self.at is None:
            return own
        choices = {path: value for path, value in values.items() if selectors.split(path)[0] == _MODEL}
        there = apply_values(varied, choices, self.at, f"trial at {self.at.name}", keep_depth=True)
        return estimate_cost(there.resolve()).to_dict()


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
    reject_unknown(entry, ("at", "require"), path)
    if not isinstance(name := entry.get("at"), str):
        raise ConfigError(f"{path}.at", "is missing: name an experiment")
    bound = _parse_bound(entry.get("require"), costs, f"{path}.require")
    return replace(bound, at=config.read(name, folder=folder, recorded=recorded))


def _parse_bound(text: Any, costs: Sequence[str], path: str) -> Constraint:
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(path, f"{text!r} is not a bound such as 'params <= 4e6'")
    metric, operator, number = match.groups()
    if metric not in costs:
        raise ConfigError(path, f"no cost {metric!r}{did_you_mean(metric, costs)}")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ConfigError(path, f"{number!r} is not a number")
    return Constraint(" ".join(text.split()), metric, operator, bound)
