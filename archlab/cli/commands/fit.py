"""The command on losses: fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from archlab import api
from archlab.cli.console import make_console
from archlab.errors import ArchlabError, did_you_mean, show_value

_TARGET = ("params", "tokens")


def _parse_target(_: click.Context, __: click.Parameter, text: str) -> dict[str, float]:
    """Return the numbers of params=7e9,tokens=2e12."""
    target: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise ArchlabError(f"--to: {show_value(part, 40)} is not NAME=NUMBER, as in params=7e9,tokens=2e12")
        if name not in _TARGET:
            raise ArchlabError(f"--to: there is no {show_value(name, 40)}{did_you_mean(name, _TARGET)}")
        if name in target:
            raise ArchlabError(f"--to: {name} appears twice")
        target[name] = _positive(name, value)
    for name in _TARGET:
        if name not in target:
            raise ArchlabError(f"--to: {name} is missing, as in params=7e9,tokens=2e12")
    return target


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ArchlabError(f"--to: {name}: {show_value(text, 40)} is not a number") from error
    if not (math.isfinite(value) and value > 0):
        raise ArchlabError(f"--to: {name}: {show_value(text, 40)} is not a number above 0")
    return value


@click.command()
@click.argument("losses", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--to",
    "target",
    required=True,
    metavar="params=N,tokens=D",
    callback=_parse_target,
    help="Forecast the loss of a model of N parameters without embeddings, trained on D tokens.",
)
@click.option("--json", "as_json", is_flag=True, help="Print forecasts and backtest as JSON.")
def fit(losses: Path, target: dict[str, float], as_json: bool) -> None:
    """Fit a scaling law to each candidate's losses and forecast a larger model, with 90 % intervals.

    LOSSES is a CSV file with the columns candidate, params, tokens, loss and, where there are several runs, seed.
    """
    from archlab.cli.fit_tables import fit_report

    result = api.fit(losses, params=target["params"], tokens=target["tokens"])
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
        return
    make_console().print(fit_report(result))


COMMANDS = (fit,)
