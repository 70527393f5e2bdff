"""YAML files and YAML data: finding shipped files, loading files, parsing overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from archlab.config import renames
from archlab.config.yaml_limits import require_bounded
from archlab.errors import ConfigError, did_you_mean, escape_control_characters, is_unicode, one_line, show_value

Yaml: TypeAlias = "bool | int | float | str | Sequence[Yaml] | Mapping[str, Yaml] | None"


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
    if name not in known and library == "experiments" and name in renames.current().experiments:
        raise ConfigError("", renames.now_called(f"experiment {name!r}", renames.current().experiments[name]))
    if name not in known:
        raise ConfigError("", f"no {library.rstrip('s').replace('_', ' ')} {name!r}{did_you_mean(name, known)}")
    return known[name]


def load_yaml(file: Path) -> dict[str, Any]:
    """Load a YAML file's mapping without resolving interpolations; raise ConfigError if it cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
        require_bounded(text, str(file))
        config = OmegaConf.load(StringIO(text))
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


def copy_data(data: Mapping[str, Yaml], name: str) -> dict[str, Any]:
    """Return a copy of Python data with the types that YAML has; raise ConfigError for values that it cannot hold."""
    # Through YAML text and not deepcopy: a tuple becomes the list that a file would have, an object an error.
    try:
        plain = yaml.safe_load(yaml.safe_dump(dict(data), sort_keys=False))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError("", f"cannot be written as YAML: {one_line(error)}", name) from None
    require_text_keys(plain, "", Path(name))
    return plain


def parse_override(text: str) -> tuple[str, Any]:
    """Split `path=value` and parse the value as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(text, "is not an override; write path=value", "command line")
    if not is_unicode(text):
        raise ConfigError(escape_control_characters(path), "the override is not UTF-8", "command line")
    try:
        require_bounded(value, "command line", path)
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]  # type: ignore[index,call-overload]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(path, f"{show_value(value)} cannot be read: {one_line(error)}", "command line") from None
    return path, parsed
