"""The `vary:` section of a search space: the domain of each path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.config.domains import parse_domain
from archlab.errors import ConfigError
from archlab.searching.space.pattern_yaml import parse_pattern
from archlab.searching.variants import selectors
from archlab.searching.variants.variant import Varied


def parse_vary(vary: Mapping[str, Any]) -> dict[str, Varied]:
    """Read the domain of every varied path, None for `auto`; raise ConfigError for one that is none."""
    if not vary:
        raise ConfigError("vary", "is empty: nothing to search over")
    return {path: _parse(value, path) for path, value in vary.items()}


def _parse(value: Any, path: str) -> Varied:
    selectors.split(path)
    if value == "auto":
        return None
    if isinstance(value, Mapping) and "pattern" in value:
        return _parse_pattern(value, path)
    return parse_domain(value, f"vary.{path}")


def _parse_pattern(value: Mapping[str, Any], path: str) -> Varied:
    if len(value) > 1:
        other = next(key for key in value if key != "pattern")
        raise ConfigError(f"vary.{path}", f"pattern stands alone, without {other!r}")
    if selectors.has_wildcard(path):
        raise ConfigError(f"vary.{path}", "a pattern is of one list of layers, without a wildcard in its path")
    return parse_pattern(value["pattern"], f"vary.{path}.pattern")
