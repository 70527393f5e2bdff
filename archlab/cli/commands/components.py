"""Commands on components: list, check, schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from archlab import api
from archlab.cli.completion import complete_component, complete_kind, complete_knob
from archlab.cli.console import make_console
from archlab.cli.options import PYTHON_FILE
from archlab.config import registry
from archlab.config.plugins import load_plugin
from archlab.errors import ArchlabError


@click.command("list")
@click.argument("kind", required=False, shell_complete=complete_kind)
def list_(kind: str | None) -> None:
    """List experiments, search spaces and components.

    With KIND, list the components of that kind with their knobs: type, default, domain of a search, and meaning.
    """
    from archlab.cli.listing import components_table, experiments_table

    console = make_console()
    if kind is None:
        console.print(experiments_table("experiments", "archlab show NAME"))
        console.print(experiments_table("search_spaces", "archlab search NAME"))
    console.print(components_table(registry.components(kind), detailed=kind is not None))


@click.command()
@click.argument("kind", shell_complete=complete_kind)
@click.argument("name", shell_complete=complete_component)
@click.argument("knobs", nargs=-1, metavar="[KNOB=VALUE]...", shell_complete=complete_knob)
@click.option("--plugin", type=PYTHON_FILE, help="Import this Python file, which registers the component.")
def check(kind: str, name: str, knobs: tuple[str, ...], plugin: Path | None) -> None:
    """Test a component in a small model: causality, state, gradients, knobs, export.

    KIND and NAME are those that it is registered as; KNOB=VALUE sets a knob.
    """
    from rich.text import Text

    from archlab.cli.terminal import foreign

    console, failed = make_console(), 0
    for result in api.check(kind, name, knobs, plugin=plugin):
        failed += not result.passed
        status = ("passed  ", "green") if result.passed else ("failed  ", "bold red")
        text = foreign(f"  {result.problem or result.description}")
        console.print(Text.assemble(status, (result.name, "bold"), text), soft_wrap=True)
    if failed:
        raise ArchlabError(f"{kind} {name}: {failed} check{'s' * (failed > 1)} failed")


@click.command()
@click.argument("document", type=click.Choice(["experiment", "search"]), default="experiment", metavar="[DOCUMENT]")
@click.option(
    "--plugin", "plugins", multiple=True, type=PYTHON_FILE, help="Include the components of this Python file."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the schema to this file, not to standard output.",
)
def schema(document: str, plugins: tuple[Path, ...], out: Path | None) -> None:
    """Write a JSON Schema, with which editors complete and check YAML.

    DOCUMENT is experiment (the default) or search, for search spaces.
    """
    for plugin in plugins:
        load_plugin(str(plugin.resolve()), Path(), "--plugin")
    if document == "search":
        from archlab.searching.space.space_schema import space_schema as make
    else:
        from archlab.config.json_schema import experiment_schema as make
    text = json.dumps(make(), indent=2) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        from archlab.storage.files import write_text
        from archlab.storage.targets import require_schema_target

        require_schema_target(out)
        write_text(out, text)


COMMANDS = (list_, check, schema)
