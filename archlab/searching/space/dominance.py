"""The settings of the pruner `dominated`, for several objectives, for which Optuna has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from archlab.config.domains import Count, Index
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError


@dataclass(frozen=True)
class DominanceConfig:
    """When a trial is pruned: from `n_warmup_steps` on, where `n_dominating` of at least `n_startup_trials` dominate.

    Only trials that were evaluated after as many tokens are counted.
    """

    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    n_dominating: int = 2

    @classmethod
    def parse(cls, options: Mapping[str, Any], path: str) -> Self:
        """Read the options of `study.pruner`; raise ConfigError for unknown ones and invalid values."""
        kinds = {"n_startup_trials": Count, "n_warmup_steps": Index, "n_dominating": Count}
        reject_unknown(options, [each.name for each in fields(cls)], path, owner="dominated")
        return cls(**{key: coerce(value, kinds[key], f"{path}.{key}") for key, value in options.items()})


def check_dominated(objectives: Mapping[str, str], costs: Sequence[str], validation: str) -> None:
    """Raise ConfigError unless the objectives are one validation metric and costs that are known before training."""
    measured = [name for name in objectives if name.startswith(validation)]
    unknown = [name for name in objectives if name not in costs and name not in measured]
    if unknown:
        raise ConfigError("study.pruner", f"dominated cannot judge {unknown[0]} before a trial ends")
    if len(measured) != 1:
        raise ConfigError("study.pruner", f"dominated needs one validation metric, and there are {len(measured)}")
