"""The command on costs before training: plan."""

from __future__ import annotations

import json

import click

from archlab import api
from archlab.cli.completion import complete_experiment
from archlab.cli.console import make_console
from archlab.cli.options import OVERRIDES, TRUST_PLUGINS


@click.command()
@click.argument("name", required=False, shell_complete=complete_experiment)
@OVERRIDES
@click.option("--devices", type=click.IntRange(min=1), help="Number of devices; 1, or those of `parallel:`.")
@click.option("--device", default="cpu", show_default=True, help="A device, or a YAML file of your own.")
@click.option("--tokens", type=click.FloatRange(min=1), help="Token budget; the default is that of train.steps.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--calibrate", is_flag=True, help="Measure this machine first, for --device cpu; takes a minute.")
@TRUST_PLUGINS
def plan(
    name: str | None,
    overrides: tuple[str, ...],
    devices: int | None,
    device: str,
    tokens: float | None,
    as_json: bool,
    calibrate: bool,
) -> None:
    """Print the memory and time of training an experiment on some devices, allocating nothing.

    NAME is an experiment or a YAML file; PATH=VALUE sets a value by its path.
    """
    if name is None and not calibrate:
        raise click.UsageError("Missing argument 'NAME'.")
    if calibrate:
        _calibrate()
    if name is None:
        return
    made = api.plan(name, overrides, device=device, devices=devices, tokens=tokens)
    if as_json:
        click.echo(json.dumps(made.to_dict(), indent=2))
        return

    from archlab.cli.plan_table import layout_lines, plan_table
    from archlab.cli.terminal import foreign

    console = make_console()
    console.print(plan_table(made))
    for line in layout_lines(made):
        console.print(foreign(line))


def _calibrate() -> None:
    from archlab.planning.calibrate import calibrate

    click.echo(f"calibrated: {calibrate()}", err=True)


COMMANDS = (plan,)
