"""The command that looks on: watch."""

from __future__ import annotations

from pathlib import Path

import click

from archlab.cli.console import make_console
from archlab.cli.options import TRUST_PLUGINS, WRITTEN_FOLDER


@click.command()
@click.argument("folder", type=WRITTEN_FOLDER, metavar="DIRECTORY")
@click.option("--once", is_flag=True, help="Print the present state and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the state as JSON, one object per line.")
@TRUST_PLUGINS
def watch(folder: Path, once: bool, as_json: bool) -> None:
    """Show the progress of a run, a search or a ladder while other processes work on it.

    DIRECTORY is its directory, in which nothing is written. Ends when no process works on it any more, or with Ctrl-C.
    """
    from archlab.cli.watching import follow, show_once
    from archlab.searching.watch import open_watch

    read = open_watch(folder)
    (show_once if once else follow)(make_console(), read, as_json=as_json)


COMMANDS = (watch,)
