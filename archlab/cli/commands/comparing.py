"""The command on several models: compare."""

from __future__ import annotations

import json
from pathlib import Path

import click

from archlab import api
from archlab.cli.completion import complete_experiment
from archlab.cli.console import make_console
from archlab.cli.options import FOLDER, FORCE, TRUST_PLUGINS
from archlab.errors import ArchlabError


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAMES...", shell_complete=complete_experiment)
@click.option("--out", type=FOLDER, help="Write a page and JSON to this directory.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@FORCE
@TRUST_PLUGINS
def compare(names: tuple[str, ...], out: Path | None, as_json: bool, force: bool) -> None:
    """Compare models: structure, costs, learning curves, evaluations.

    NAMES are runs or other directories that archlab wrote, experiments, and YAML files. Results of
    `archlab eval --suite` are shown together.
    """
    if len(names) < 2:
        raise ArchlabError(f"{names[0]}: is one model; name another to compare it with")
    found = api.compare(*names, out=out, force=force)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return

    from archlab.cli.compare_tables import compare_tables

    make_console().print(compare_tables(found))
    if out is not None:
        click.echo(f"page     {out / 'index.html'}")


COMMANDS = (compare,)
