"""The keys of a search space that make a ladder of it, as far as the space itself has to know them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archlab.config.yaml_files import is_file_name
from archlab.errors import ConfigError

LADDER_KEYS = ("candidates", "rungs", "rules", "branches", "to", "rehearsal")
EXPERIMENT = "experiment"
_NAMING = (EXPERIMENT, "to")  # keys whose value is an experiment, by its name or its file


def is_ladder(tree: Mapping[str, Any]) -> bool:
    """Return whether the YAML of a space has rungs; raise ConfigError if it has a key that only a ladder has."""
    if tree.get("rungs") is not None:
        return True
    if stray := next((key for key in LADDER_KEYS if tree.get(key) is not None), None):
        raise ConfigError(stray, "belongs to a space with rungs, and this one has none")
    return False


def portable_ladder(tree: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the keys of a ladder for a copy of its space in another directory: file names are absolute."""
    return {key: _portable(key, tree[key], folder) for key in LADDER_KEYS if tree.get(key) is not None}


def _portable(key: str, value: Any, folder: Path) -> Any:
    if key == "candidates" and isinstance(value, Mapping):
        return {name: _portable(EXPERIMENT, entry, folder) for name, entry in value.items()}
    if isinstance(value, Mapping):
        return {name: _portable(name, entry, folder) if name in _NAMING else entry for name, entry in value.items()}
    if key in _NAMING and isinstance(value, str) and is_file_name(value):
        return str(folder / value)
    return value
