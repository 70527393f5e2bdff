"""The `tasks:` of a search space: several tasks that every candidate is trained on, each by itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from archlab.config.experiment import Experiment, UnresolvedExperiment
from archlab.errors import ConfigError

Tasks = Mapping[str, Mapping[str, Any]]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # it is the name of a directory too


def parse_tasks(data: Any, taken: Collection[str]) -> dict[str, dict[str, Any]]:
    """Read the values of each task by their paths; raise ConfigError for a path that is `taken`, as by `vary`."""
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not data:
        raise ConfigError("tasks", f"{data!r} is not a mapping of names to the values of each task")
    return {_name(name): _values(name, values, taken) for name, values in data.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError("tasks", f"{name!r} is not a name of letters, digits, '_', '-' and '.'")
    return name


def _values(name: str, values: Any, taken: Collection[str]) -> dict[str, Any]:
    where = f"tasks.{name}"
    if not isinstance(values, Mapping) or not all(isinstance(path, str) for path in values):
        raise ConfigError(where, f"{values!r} is not a mapping of paths to values")
    for path in values:
        if path in taken:
            raise ConfigError(
                f"{where}.{path}", "is varied, tuned or held too: a value is the candidate's or the task's"
            )
    return dict(values)


def task_experiments(tasks: Tasks, experiment: UnresolvedExperiment) -> dict[str, UnresolvedExperiment]:
    """Return an experiment with the values of each task, by the names of the tasks."""
    return {name: experiment.override(values, f"tasks.{name}") for name, values in tasks.items()}


def resolve_tasks(tasks: Tasks, base: UnresolvedExperiment) -> list[Experiment]:
    """Return the base experiment on each task; raise ConfigError, naming the task, for one that does not fit."""
    return [_resolve(name, experiment) for name, experiment in task_experiments(tasks, base).items()]


def _resolve(name: str, experiment: UnresolvedExperiment) -> Experiment:
    try:
        return experiment.resolve()
    except ConfigError as error:
        raise ConfigError(f"tasks.{name}.{error.path}", error.problem) from None
