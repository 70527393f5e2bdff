"""YAML files and YAML data: finding shipped files, loading files, copying data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from archlab.config import renames
from archlab.config.libraries import OTHER, one_of, use_of
from archlab.config.yaml_reader import parse_yaml
from archlab.config.yaml_writer import format_yaml
from archlab.errors import ConfigError, did_you_mean, nearest, why_unreadable
from archlab.text import shell_path

Yaml: TypeAlias = "bool | int | float | str | Sequence[Yaml] | Mapping[str, Yaml] | None"

_FILES_OF_DIRS = ("experiment.yaml", "best/experiment.yaml", "search.yaml", "base.yaml")


def shipped_files(folder: str = "experiments") -> dict[str, Path]:
    """Return the YAML files that come with archlab, by name."""
    root = Path(import_module("archlab.components").__path__[0]).parent / folder
    return {file.stem: file for file in sorted(root.glob("*.yaml"))}


def is_file_name(name: str) -> bool:
    """Return whether a string is the path of a file and not the name of a shipped one."""
    return name.endswith((".yaml", ".yml")) or "/" in name


def find_yaml(name: str, folder: Path, library: str) -> Path:
    """Return the file of a shipped name, or of a path relative to `folder`; raise ConfigError if there is none."""
    file = folder / name
    if is_file_name(name):
        try:
            is_there = file.is_file()
        except OSError as error:  # a name that is too long, or a directory that may not be read
            raise ConfigError("", f"no file {str(file)!r}: {error.strerror}") from None
        if not is_there:
            raise ConfigError("", _problem_of_path(file))
        return file
    known = shipped_files(library)
    if name not in known and library == "experiments" and name in renames.current().experiments:
        raise ConfigError("", renames.former_name_message(f"experiment {name!r}", renames.current().experiments[name]))
    other = OTHER[library]
    if name not in known and name in shipped_files(other):
        raise ConfigError("", f"no {one_of(library)} {name!r}: {use_of(other, name)}")
    if name not in known and file.is_dir():
        raise ConfigError("", _problem_of_path(file))
    if name not in known:
        listed = "" if nearest(name, known) else "; archlab list names them all"
        raise ConfigError("", f"no {one_of(library)} {name!r}{did_you_mean(name, known)}{listed}")
    return known[name]


def _problem_of_path(path: Path) -> str:
    if not path.is_dir():
        return f"no file {str(path)!r}"
    inside = next((path / name for name in _FILES_OF_DIRS if (path / name).is_file()), None)
    return f"{str(path)!r} is a directory" + (f"; name a file of it, {shell_path(inside)}" if inside else "")


def load_yaml(file: Path) -> dict[str, Any]:
    """Load a YAML file's mapping without resolving interpolations; raise ConfigError if it cannot be read."""
    try:
        tree = parse_yaml(file.read_bytes())
    except OSError as error:
        raise ConfigError("", f"cannot be read: {why_unreadable(error)}", str(file)) from None
    except ConfigError as error:
        raise ConfigError("", error.problem, str(file)) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("", "is not a mapping", str(file))
    require_text_keys(tree, "", file)
    return tree


def require_text_keys(tree: Any, path: str, file: Path) -> None:
    """Raise ConfigError for the first key of a mapping that is not a string; YAML allows numbers and null."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        if isinstance(tree, dict) and not isinstance(key, str):
            raise ConfigError(path, f"the key {key!r} is not a text", str(file))
        require_text_keys(value, f"{path}[{key}]" if isinstance(tree, list) else f"{path}.{key}".lstrip("."), file)


def copy_data(data: Mapping[str, Yaml], name: str) -> dict[str, Any]:
    """Return a copy of Python data with the types that YAML has; raise ConfigError for values that it cannot hold."""
    # Through YAML text and not deepcopy: a tuple becomes the list that a file would have, an object an error.
    try:
        plain = parse_yaml(format_yaml(data))
    except ConfigError as error:
        raise ConfigError("", error.problem, name) from None
    require_text_keys(plain, "", Path(name))
    return plain
