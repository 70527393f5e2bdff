"""YAML files: finding those that come with archlab, and loading them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from archlab.errors import ConfigError, did_you_mean, one_line


def shipped_files(folder: str = "experiments") -> dict[str, Path]:
    """Return the YAML files that come with archlab, by name."""
    root = Path(import_module("archlab.components").__path__[0]).parent / folder
    return {file.stem: file for file in sorted(root.glob("*.yaml"))}


def is_file_name(name: str) -> bool:
    """Tell whether a string is the path of a file and not the name of a shipped one."""
    return name.endswith((".yaml", ".yml")) or "/" in name


def find_yaml(name: str, folder: Path, library: str) -> Path:
    """Return the file of a shipped name, or of a path relative to `folder`; raise ConfigError if there is none."""
    file = folder / name
    if is_file_name(name):
        if not file.is_file():
            raise ConfigError("", f"no file {str(file)!r}")
        return file
    known = shipped_files(library)
    if name not in known:
        raise ConfigError("", f"no {library.rstrip('s').replace('_', ' ')} {name!r}{did_you_mean(name, known)}")
    return known[name]


def load_yaml(file: Path) -> dict[str, Any]:
    """Load a YAML file's mapping without resolving interpolations; raise ConfigError if it cannot be read."""
    try:
        config = OmegaConf.load(file)
        tree = OmegaConf.to_container(config, resolve=False)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError("", f"{where}{error.problem or error.context}", str(file)) from None
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError, TypeError) as error:
        raise ConfigError("", f"cannot be read: {one_line(error)}", str(file)) from None
    if not isinstance(config, DictConfig) or not isinstance(tree, dict):
        raise ConfigError("", "is not a mapping", str(file))
    require_text_keys(tree, "", file)
    return tree  # type: ignore[return-value]


def require_text_keys(tree: Any, path: str, file: Path) -> None:
    """Raise ConfigError for the first key of a mapping that is not a string; YAML allows numbers and null."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        if isinstance(tree, dict) and not isinstance(key, str):
            raise ConfigError(path, f"the key {key!r} is not a text", str(file))
        require_text_keys(value, f"{path}[{key}]" if isinstance(tree, list) else f"{path}.{key}".lstrip("."), file)
