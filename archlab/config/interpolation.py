r"""Interpolations: `${path}` in YAML data refers to another value; `\${` is a text that reads `${`."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from archlab.errors import ConfigError, one_line

_OPENING = re.compile(r"(\\*)\$\{")


def interpolate(tree: dict[str, Any]) -> dict[str, Any]:
    """Return YAML data with its interpolations filled in; raise ConfigError naming the path of one that cannot be."""
    try:
        filled = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
        raise ConfigError(getattr(error, "full_key", None) or "", one_line(error)) from None
    return _filled(tree, filled)


def _filled(data: Any, filled: Any) -> Any:
    r"""Take only interpolations from what OmegaConf returns, to which `???` and `\???` are more than texts."""
    if isinstance(data, dict):
        return {key: _filled(value, filled[key]) for key, value in data.items()}
    if isinstance(data, list):
        return [_filled(value, filled[index]) for index, value in enumerate(data)]
    return filled if isinstance(data, str) and "${" in data else data


def escape(data: Any) -> Any:
    """Return YAML data that `interpolate` turns into `data`: each `${` in a text stands for itself."""
    if isinstance(data, dict):
        return {key: escape(value) for key, value in data.items()}
    if isinstance(data, list):
        return [escape(value) for value in data]
    # Backslashes are doubled before `${` alone: anywhere else OmegaConf reads them as they are.
    return _OPENING.sub(r"\1\1\\${", data) if isinstance(data, str) else data
