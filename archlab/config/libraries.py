"""Experiments and search spaces: errors for a file of one kind where the other is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archlab.errors import ConfigError
from archlab.text import shell_path, with_article

OTHER = {"experiments": "search_spaces", "search_spaces": "experiments"}
_ADVICE = {
    "experiments": "it is an experiment, which a search space names as its base; to train it: archlab train",
    "search_spaces": "it is a search space; to search it: archlab search",
}
_OWN_KEYS = {"experiments": ("model", "task", "train"), "search_spaces": ("vary", "rungs", "candidates", "objectives")}


def one_of(library: str) -> str:
    """Return the noun for a file of a library."""
    return library.rstrip("s").replace("_", " ")


def use_of(library: str, name: str) -> str:
    """Return the kind of a file, and the command for it."""
    return f"{_ADVICE[library]} {shell_path(name)}"


def refuse_other_kind(tree: Mapping[str, Any], library: str, file: Path) -> None:
    """Raise ConfigError if a file is of the other library, by keys that files of this one do not have."""
    other = OTHER[library]
    own, others = (any(key in tree for key in _OWN_KEYS[each]) for each in (library, other))
    if others and not own:
        raise ConfigError("", f"is not {with_article(one_of(library))}: {use_of(other, str(file))}", str(file))
