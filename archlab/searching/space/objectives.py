"""The objectives of a space, each with its direction: metrics of validation, counted and planned costs, speeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment
from archlab.errors import ConfigError, did_you_mean
from archlab.searching.variants.planned import PlannedObjective, parse_objective

VALIDATION = "val_"
COSTS = (
    "params",
    "params_non_embedding",
    "flops_per_token",
    "flops_per_token_forward",
    "state_bytes",
    "max_state_bytes",
    "memory_per_device",
)
MEASURED = ("tokens_per_s", "decode_us_per_token")


def common_metrics(experiments: Sequence[Experiment]) -> list[str]:
    """Return the metrics that the tasks of all experiments have."""
    every = [experiment.task.component.cls.metrics for experiment in experiments]
    return [name for name in every[0] if all(name in one for one in every)]


def parse_objectives(
    data: Any, metrics: Sequence[str], file: Path, recorded: bool
) -> tuple[dict[str, str], dict[str, PlannedObjective]]:
    """Return each objective's direction by its name, and those that are planned."""
    objectives = {"val_loss": "minimize"} if data is None else data
    if not isinstance(objectives, Mapping) or not objectives:
        raise ConfigError("objectives", f"{data!r} is not a mapping of metrics to minimize or maximize")
    known = (*(f"{VALIDATION}{name}" for name in metrics), *COSTS, *MEASURED)
    directions, planned = {}, {}
    for metric, entry in objectives.items():
        if isinstance(entry, Mapping):
            objective = parse_objective(metric, entry, COSTS, file.parent, recorded=recorded)
            planned[objective.name] = objective
            directions[objective.name] = objective.direction
            continue
        if metric not in known:
            raise ConfigError("objectives", f"no metric {metric!r}{did_you_mean(metric, known)}")
        if entry not in ("minimize", "maximize"):
            raise ConfigError(f"objectives.{metric}", f"{entry!r} is neither minimize nor maximize")
        directions[metric] = entry
    return directions, planned
