"""Experiments that the YAML of a search names, by their names or files."""

from __future__ import annotations

from pathlib import Path

from archlab.config import experiment as config
from archlab.errors import ConfigError


def read_named(
    name: config.Source, path: str, folder: Path = Path(), *, recorded: bool = False
) -> config.UnresolvedExperiment:
    """Read the experiment that is named at a YAML path; raise ConfigError with that path where there is none."""
    try:
        return config.read(name, folder=folder, recorded=recorded)
    except ConfigError as error:
        if error.path or error.source:  # a mistake in the experiment's own file
            raise
        raise ConfigError(path, error.problem) from None
