"""Arguments and options that several commands share."""

from __future__ import annotations

import os
import sys
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click

from archlab.cli.completion import complete_experiment, complete_override
from archlab.config.plugin_trust import plugin_policy
from archlab.errors import ArchlabError, nearest
from archlab.runtime.extensions import Extensions
from archlab.text import shell_path

Workers: TypeAlias = int | Literal["auto"]
FOLDER = click.Path(path_type=Path, file_okay=False)
PYTHON_FILE = click.Path(path_type=Path, dir_okay=False)
NAME = click.argument("name", shell_complete=complete_experiment)
OVERRIDES = click.argument("overrides", nargs=-1, metavar="[PATH=VALUE]...", shell_complete=complete_override)
FORCE = click.option("--force", is_flag=True, help="Overwrite files that archlab wrote to the directory, no others.")


class NameOption(click.Option):
    """An option whose help ends with the names that it takes, found when it is shown."""

    def __init__(self, *declarations: Any, names: Extensions, **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        self.names = names

    def get_help_record(self, context: click.Context) -> tuple[str, str] | None:
        """Return the option and its help with the names."""
        record = super().get_help_record(context)
        *names, last = self.names.names()
        return record and (record[0], f"{record[1].removesuffix('.')}: {', '.join(names)} or {last}.")


class _WrittenFolder(click.Path):
    """An existing directory; the error, with the nearest name, comes before a command imports torch."""

    def convert(self, value: str | PathLike[str], param: click.Parameter | None, context: click.Context | None) -> Path:
        """Return the path; raise ArchlabError if nothing is there."""
        folder = Path(os.fsdecode(super().convert(value, param, context)))
        if not os.path.exists(folder):  # not Path.exists, which raises for a name that is too long
            near = nearest(folder.name, _names_in(folder.parent))
            hint = f"; did you mean {shell_path(folder.parent / near)}?" if near else ""
            raise ArchlabError(f"{folder}: is not a directory{hint}")
        return folder


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        return []


WRITTEN_FOLDER = _WrittenFolder(path_type=Path, file_okay=False)


class _Workers(click.ParamType):
    """A number of workers, or `auto`: as many as fit this machine."""

    name = "N|auto"

    def convert(self, value: str | int, param: click.Parameter | None, context: click.Context | None) -> Workers:
        """Return the number, or auto; fail for anything else."""
        if value == "auto":
            return "auto"
        number: int = click.IntRange(min=1).convert(value, param, context)  # type: ignore[arg-type]  # it reads text
        return number


WORKERS = click.option(
    "--workers",
    type=_Workers(),
    default="1",
    show_default=True,
    help="Train this many trials at a time, each in its own process; auto chooses as many as fit the machine. They run"
    " on this machine, or where the space's study.launcher places them.",
)


def _apply_trust(context: click.Context, _: click.Parameter, trust: bool) -> None:
    # Standard input may be a file of prompts or `yes`: only a person at a terminal can be asked.
    is_person = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    context.with_resource(plugin_policy(trust=trust, ask=_ask if is_person else None))


def _ask(question: str) -> bool:
    return click.confirm(question, default=False, err=True)


TRUST_PLUGINS = click.option(
    "--trust-plugins",
    is_flag=True,
    expose_value=False,
    callback=_apply_trust,
    help="Trust the plugins that a run or a checkpoint names, and run them; needed once, as they are remembered.",
)
