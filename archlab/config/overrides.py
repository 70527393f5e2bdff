"""Overrides: `path=value` on a command line, read and written."""

from __future__ import annotations

from typing import Any

from archlab.config.yaml_reader import parse_inline
from archlab.config.yaml_writer import format_inline
from archlab.errors import ConfigError
from archlab.text import HIDDEN, shell_quote, shorten


def parse_override(text: str) -> tuple[str, Any]:
    """Split `path=value`, and read the value as `parse_inline` does; raise ConfigError for another text."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(text, "is not an override; write path=value", "command line")
    try:
        return path, parse_inline(value)
    except ConfigError as error:
        advice = f"; for a text, write {shell_quote(format_override(path, value))}" if len(value) < 100 else ""
        problem = f"{shorten(value, 100)!r} cannot be read: {error.problem}{advice}"
        raise ConfigError(path, problem, "command line") from None


def format_override(path: str, value: Any) -> str:
    """Return the override from which `parse_override` reads the value, quoted for YAML where it has to be."""
    is_bare = isinstance(value, str) and not HIDDEN.search(value) and _stands_for_itself(value)
    return f"{path}={value if is_bare else format_inline(value)}"


def _stands_for_itself(text: str) -> bool:
    try:
        return bool(parse_inline(text) == text)
    except ConfigError:
        return False
