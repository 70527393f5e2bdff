"""The tables of `archlab list`: experiments, search spaces, components and their knobs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml
from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from archlab.cli.terminal import foreign, paragraph
from archlab.config.domains import Choice
from archlab.config.registry import Component, Slot
from archlab.config.schema import REQUIRED, Knob
from archlab.config.yaml_files import shipped_files

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def experiments_table(folder: str, usage: str) -> Table:
    """Return a table of the YAML files of a directory that comes with archlab."""
    table = Table(title=f"{folder.replace('_', ' ')}: {usage}", title_justify="left", box=None, show_header=False)
    for name, file in shipped_files(folder).items():
        table.add_row(foreign(name, "bold cyan"), paragraph(_description(file)))
    return table


def _description(file: Path) -> str:
    # Events, since a file is read only up to its description, which comes first: to load all 80 takes half a second.
    for key, value in pairwise(yaml.parse(file.read_text(encoding="utf-8"), _Loader)):
        if isinstance(key, yaml.ScalarEvent) and key.value == "description" and isinstance(value, yaml.ScalarEvent):
            return str(value.value)
    return ""


def components_table(components: Sequence[Component], *, detailed: bool) -> Group:
    """Return a table of components per kind; with their knobs where `detailed`."""
    kinds = dict.fromkeys(component.kind for component in components)
    return Group(*(_kind(kind, [c for c in components if c.kind == kind], detailed) for kind in kinds))


def _kind(kind: str, components: Sequence[Component], detailed: bool) -> Table:
    table = Table(title=kind, title_justify="left", title_style="bold", box=None, show_header=False)
    for component in components:
        table.add_row(foreign(f"  {component.name}", "cyan"), paragraph(component.summary))
        meanings = component.meanings if detailed else {}
        for knob in component.knobs.values() if detailed else []:
            table.add_row("", foreign(f"{knob.name}: {_knob(knob, component)}", "dim"))
            if meaning := meanings.get(knob.name):
                table.add_row("", Padding(foreign(meaning), (0, 0, 0, 4)))
    return table


def _knob(knob: Knob, component: Component) -> str:
    default = knob.default
    if isinstance(default, Slot):
        text = f"{'a list of ' if default.many else ''}{default.kind}"
        default = default.default or REQUIRED
    else:
        text = knob.type_name
    if default is not REQUIRED:
        text += f" = {'null' if default is None else default}"
    domain = component.search.get(knob.name)
    if domain is None:
        return text
    values = domain.values if isinstance(domain, Choice) else (f"{domain.low:g} to {domain.high:g}",)
    return f"{text}   (a search tries {', '.join(map(str, values))})"
