"""A space's YAML data for a copy in another directory: whatever names a file there names it absolutely."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archlab.config import yaml_files
from archlab.errors import ConfigError
from archlab.searching.space.ladder_keys import portable_ladder
from archlab.searching.space.seeds import absolute_seeds, parse_seeds


def portable_data(tree: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the YAML data for a copy of the space in another directory: its file names are absolute."""
    data = {key: tree[key] for key in ("description", "vary", "hold", "inner", "compare", "tasks") if key in tree}
    if seeds := parse_seeds(tree.get("seeds")):
        data["seeds"] = absolute_seeds(seeds, folder)
    if plugins := list_of(tree, "plugins"):
        data["plugins"] = [str(folder / plugin) if plugin.endswith(".py") else plugin for plugin in plugins]
    if constraints := list_of(tree, "constraints"):
        data["constraints"] = [_with_absolute_path(entry, folder) for entry in constraints]
    return data | portable_ladder(tree, folder)


def _with_absolute_path(entry: Any, folder: Path) -> Any:
    if not isinstance(entry, Mapping):
        return entry
    files = [key for key in ("at", "device") if key in entry and yaml_files.is_file_name(entry[key])]
    return {**entry, **{key: str(folder / entry[key]) for key in files}}


def list_of(tree: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list of a key, empty where it is missing or null; raise ConfigError for anything else."""
    value = [] if tree.get(key) is None else tree[key]
    if not isinstance(value, list):
        raise ConfigError(key, f"{value!r} is not a list")
    return value
