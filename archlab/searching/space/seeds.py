"""The experiments that a search tries first, such as published systems, as trials of its space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archlab.config import experiment as config
from archlab.config import yaml_files
from archlab.errors import ConfigError
from archlab.searching.variants.experiment_values import express
from archlab.searching.variants.named_experiment import read_named
from archlab.searching.variants.variant import Varied


def parse_seeds(data: Any) -> tuple[str, ...]:
    """Read the `seeds:` list of names and files of experiments."""
    listed = [] if data is None else data
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ConfigError("seeds", f"{data!r} is not a list of experiments")
    if len(set(listed)) < len(listed):
        raise ConfigError("seeds", "names an experiment twice")
    return tuple(listed)


def absolute_seeds(seeds: tuple[str, ...], folder: Path) -> list[str]:
    """Return the seeds with absolute file names."""
    return [str(folder / name) if yaml_files.is_file_name(name) else name for name in seeds]


def seed_values(
    seeds: tuple[str, ...], folder: Path, varied: Mapping[str, Varied], base: config.UnresolvedExperiment
) -> dict[str, dict[str, Any]]:
    """Return the values of the varied knobs in each seed, by its name.

    Raises ConfigError naming the first path in which one is not of the space: the trained model would be another one
    than the one that it is called after.
    """
    found = {}
    for index, name in enumerate(seeds):
        values, problem = express(varied, base, read_named(name, f"seeds[{index}]", folder))
        if problem:
            raise ConfigError(f"seeds[{index}]", f"{name} is not a trial of this space: {problem}")
        found[name] = values
    return found
