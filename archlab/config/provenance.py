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

    def sets(self, path: str, below: bool = False) -> bool:
        """Tell whether the layer sets the value at a path or one above it, or with `below` one below it."""
        if below and any(key.startswith((f"{path}.", f"{path}[")) for key in self.values):
            return True
        if any(path == key or path.startswith((f"{key}.", f"{key}[")) for key in self.values if "." in key):
            return True
        try:
            return paths.get(self.values, path, missing=_MISSING) is not _MISSING
        except ConfigError:
            return False


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

    def origin_of(self, path: str, below: bool = False) -> str:
        """Return the file or command that set the value at or above a path, the first file if none did.

        With `below` it may be one that set a value below the path, which is how an override makes an unknown key.
        """
        sources = (layer.source for layer in reversed(self.layers) if layer.sets(path, below))
        return next(sources, self.layers[0].source)
