"""The provenance of an experiment's values: which file or command set each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.config import paths
from archlab.errors import ConfigError

_MISSING = object()


@dataclass(frozen=True)
class Layer:
    """The values that one file or command sets: a YAML tree, or single values by path."""

    source: str
    values: Mapping[str, Any]

    def sets(self, path: str) -> bool:
        """Return whether the layer sets the value at a path or one above it."""
        if any(path == key or path.startswith((f"{key}.", f"{key}[")) for key in self.values if "." in key):
            return True
        try:
            return paths.get(self.values, path, missing=_MISSING) is not _MISSING
        except ConfigError:
            return False

    def adds(self, key: str, path: str) -> bool:
        """Return whether the layer has a key, which may be no part of a path, in the mapping at a path."""
        full = f"{path}.{key}".removeprefix(".")
        if any(override.startswith((f"{full}.", f"{full}[")) for override in self.values):
            return True
        owner = paths.get(self.values, path) if path else self.values
        return isinstance(owner, Mapping) and key in owner


@dataclass(frozen=True)
class Provenance:
    """The layers of an experiment, from its base to the last override, which takes precedence."""

    layers: tuple[Layer, ...] = ()

    def add(self, source: str, values: Mapping[str, Any]) -> Provenance:
        """Return the provenance with one more layer on top."""
        return Provenance((*self.layers, Layer(source, values)))

    @property
    def last(self) -> str:
        """The file or command of the top layer."""
        return self.layers[-1].source

    def origin_of(self, path: str, key: str = "") -> str:
        """Return the file or command that set the value at or above a path, or a key there, the first if none did."""
        full = f"{path}.{key}".removeprefix(".") if key else path
        layers = reversed(self.layers)
        sources = (layer.source for layer in layers if layer.sets(full) or (key and layer.adds(key, path)))
        return next(sources, self.layers[0].source)
