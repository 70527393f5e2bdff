"""`archlab train --processes N`: this command again in N processes, which torch's elastic launcher starts."""

from __future__ import annotations

import sys

import click

from archlab.cli.boundary import line
from archlab.config.experiment import Experiment
from archlab.config.parallel import layout_of
from archlab.errors import ArchlabError, ConfigError
from archlab.runtime.distributed_env import find_place
from archlab.runtime.process import restart_without_small_cache

_OWN_OPTIONS = ("--processes", "--max-restarts")


def train_in_processes(experiment: Experiment, processes: int, max_restarts: int) -> None:
    """Train in processes of their own, and end with their exit status; refuse mismatched arguments before they start.

    Raises ArchlabError in a process that is already one of several.
    """
    if find_place().count > 1:
        raise ArchlabError("--processes is of a command that no launcher has started in several processes")
    try:
        layout_of(experiment.parallel, processes)
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, experiment.source) from None
    restart_without_small_cache()

    from archlab.runtime.elastic import run_processes
    from archlab.training.step import check_experiment

    check_experiment(experiment, processes)
    command = [sys.executable, "-m", "archlab", *arguments_without(sys.argv[1:], _OWN_OPTIONS)]
    status = run_processes(processes, command, max_restarts=max_restarts, again=["--resume"], tell=_tell)
    if status:
        raise SystemExit(status)


def _tell(text: str) -> None:
    click.echo(f"archlab: {line(text)}", err=True)


def arguments_without(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    """Return the arguments of a command line without some options and their values."""
    kept, skip = list[str](), False
    for argument in arguments:
        name, is_joined, _ = argument.partition("=")
        if skip or name in options:
            skip = not skip and not is_joined
            continue
        kept.append(argument)
    return kept
