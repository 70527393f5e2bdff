"""What the modules of several systems share: our names below a layer, and knobs of YAML data that may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def prefixed(place: str, ours: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return one or several names at a place of the model."""
    return f"{place}.{ours}" if isinstance(ours, str) else tuple(f"{place}.{name}" for name in ours)


def knob(tree: Mapping[str, Any], part: str, name: str, default: Any) -> Any:
    """Return a knob of a part, or the default where part or knob is missing."""
    return tree.get(part, {}).get(name, default)


def num_layers(model: Mapping[str, Any]) -> int:
    """Return how many layers the entries of a model stand for."""
    return sum(layer.get("repeat", 1) for layer in model["layers"])
