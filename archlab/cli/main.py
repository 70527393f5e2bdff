"""The command line: its commands, and errors in one line."""

from __future__ import annotations

import sys

import click

from archlab import __version__
from archlab.cli.boundary import run
from archlab.cli.commands import (
    comparing,
    components,
    experiments,
    fit,
    generating,
    machine,
    models,
    planning,
    preparing,
    watching,
)
from archlab.cli.group import SuggestingGroup
from archlab.runtime.process import configure_process


@click.group(cls=SuggestingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="archlab")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """Declare, search, train and export sequence-model architectures.

    NAME is an experiment or a search space that comes with archlab, or a path to a YAML file. Any value in
    it can be set by its path: train.lr=1e-3 'model.layers[0].mixer.ema=s4d'.

    To complete names and paths in bash, evaluate the output of _ARCHLAB_COMPLETE=bash_source archlab; zsh and fish
    have zsh_source and fish_source.
    """


for module in (experiments, preparing, watching, planning, fit, models, comparing, generating, components, machine):
    for command in module.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """Run the command line; exit with the status of its outcome, after one line for an error."""
    status = run(_run_command, debug="--debug" in sys.argv)
    if status:
        sys.exit(status)


def _run_command() -> None:
    configure_process()
    cli(standalone_mode=False)
