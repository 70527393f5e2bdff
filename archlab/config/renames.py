"""The names of earlier versions and their current names, read from renames.yaml."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import yaml

from archlab.errors import ConfigError

Names: TypeAlias = Mapping[str, str]
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Renames:
    """New names by old ones: of experiments, and by kind of components, their knobs and their attributes.

    Knobs and parameters are found under their component's new name.
    """

    format: int
    experiments: Names = field(default_factory=dict)
    components: Mapping[str, Names] = field(default_factory=dict)
    knobs: Mapping[str, Mapping[str, Names]] = field(default_factory=dict)
    parameters: Mapping[str, Mapping[str, Names]] = field(default_factory=dict)
    modules: Names = field(default_factory=dict)
    names: Names = field(default_factory=dict)

    def component(self, kind: str, name: object) -> str | None:
        """Return the new name of a component, or None where it was not renamed."""
        return self.components.get(kind, _NONE).get(name)

    def knobs_of(self, kind: str, component: str) -> Names:
        """Return the renamed knobs of a component."""
        return self.knobs.get(kind, _NONE).get(component, _NONE)

    def parameters_of(self, kind: str, component: str) -> Names:
        """Return the renamed attributes of a component that hold its tensors."""
        return self.parameters.get(kind, _NONE).get(component, _NONE)


@cache
def current() -> Renames:
    """Return the table of this version."""
    return Renames(**yaml.safe_load(Path(__file__).with_name("renames.yaml").read_text(encoding="utf-8")))


def former_name_message(what: str, new: str) -> str:
    """Return the refusal of a former name, as one line."""
    return f"{what} is now called {new!r} (`archlab migrate` renames it in a run's directory)"


def check_format(value: Any) -> int:
    """Return the format that a file says, 1 where it says none; raise ConfigError for one of a later version."""
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError("format", f"{value!r} is not a whole number at least 1")
    if value > current().format:
        raise ConfigError("format", f"{value} is of a later archlab; this one reads formats up to {current().format}")
    return value


def moved_import(error: Exception) -> str | None:
    """Return where a plugin finds a module or name that it failed to import, or None where nothing has moved."""
    if not isinstance(error, ImportError) or not error.name:
        return None
    table, wanted = current(), _failed_import(error.__traceback__)
    module = next((old for old in (wanted[0], error.name) if old in table.modules), None)
    if module is not None:
        now = table.modules[module]
        names = ", ".join(table.names.get(name, name) for name in wanted[1]) if wanted[0] == module else ""
        return f"{module} is now part of {now}: {f'from {now} import {names}' if names else f'import {now}'}"
    renamed = [name for name in wanted[1] if name in table.names]
    if wanted[0] == "archlab" and renamed:
        return f"{renamed[0]!r} is now called {table.names[renamed[0]]!r}"
    return None


def _failed_import(trace: TracebackType | None) -> tuple[str, list[str]]:
    """Return module and names of the last import statement of a file that a traceback passes."""
    found: tuple[str, list[str]] = ("", [])
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_file():
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.lineno <= trace.tb_lineno <= (node.end_lineno or 0):
                    found = (node.module or "", [alias.name for alias in node.names])
        trace = trace.tb_next
    return found
