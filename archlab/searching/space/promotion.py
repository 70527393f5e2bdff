"""The settings of the pruner `promotion`: asynchronous successive halving whose trials continue where they paused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self

from archlab.config.domains import Count, Range
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError

_Factor = Annotated[int, Range(low=2)]


@dataclass(frozen=True)
class PromotionConfig:
    """Where trials pause (ASHA, arXiv:1810.05934): after `first_step` steps and each `reduction_factor` times as many.

    One in `reduction_factor` of the trials that reach a step continues. `first_step` is by default that of the first
    evaluation.
    """

    first_step: int | None = None
    reduction_factor: int = 3

    @classmethod
    def parse(cls, options: Mapping[str, Any], path: str) -> Self:
        """Read the options of `study.pruner`; raise ConfigError for unknown ones and invalid values."""
        kinds = {"first_step": Count, "reduction_factor": _Factor}
        reject_unknown(options, [each.name for each in fields(cls)], path, owner="promotion")
        return cls(**{key: coerce(value, kinds[key], f"{path}.{key}") for key, value in options.items()})

    def to_plain(self) -> dict[str, int]:
        """Return the options that are not left to the experiment."""
        first = {} if self.first_step is None else {"first_step": self.first_step}
        return {**first, "reduction_factor": self.reduction_factor}

    def rungs(self, steps: int, eval_every: int) -> tuple[int, ...]:
        """Return the steps at which trials of `steps` steps pause, each that of an evaluation."""
        every, step = [], float(self.first_step or eval_every)
        while (rung := -int(-step // eval_every) * eval_every) < steps:
            every.append(rung)
            step *= self.reduction_factor
        return tuple(every)


def check_promotion(runs_per_trial: int, parts: Mapping[str, object], steps: int) -> None:
    """Raise ConfigError for a search whose trials cannot pause: each has to be one run of a known length."""
    path = "study.pruner"
    if used := next((name for name, value in parts.items() if value), None):
        raise ConfigError(path, f"promotion pauses trials of one run, and {used} makes several or compares them")
    if runs_per_trial > 1:
        raise ConfigError(path, "promotion pauses trials of one run, and study.runs_per_trial makes several")
    if not steps:
        raise ConfigError(path, "promotion needs the number of steps, train.steps, and not a budget of seconds")
