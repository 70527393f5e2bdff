"""A launcher in YAML: its name, or a mapping with its `type` and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from archlab.config.schema import REQUIRED, coerce, knobs_of, reject_unknown
from archlab.errors import ConfigError
from archlab.runtime.launch import Launcher, find_launcher


@dataclass(frozen=True)
class LauncherConfig:
    """A launcher by its name, with its options."""

    type: str = "local"
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Return the launcher as YAML data."""
        return {"type": self.type, **self.options}

    def create(self) -> Launcher:
        """Return the launcher; raise ArchlabError if its package is missing or its cluster does not answer."""
        return find_launcher(self.type)(**self.options)


def parse_launcher(data: Any, path: str) -> LauncherConfig:
    """Check a launcher's name and options against the class that has them; raise ConfigError for what does not fit."""
    options = dict(data) if isinstance(data, Mapping) else {"type": data}
    name = options.pop("type", "local")
    if not isinstance(name, str):
        raise ConfigError(path, f"{name!r} is not the name of a launcher")
    cls = find_launcher(name, path)
    knobs = knobs_of(cls.__init__)  # the constructor is a launcher's schema
    reject_unknown(options, list(knobs), path, owner=name)
    for knob in knobs.values():
        if knob.default is REQUIRED and knob.name not in options:
            raise ConfigError(path, f"{name} needs {knob.name!r}: {knob.type_name}")
    return LauncherConfig(
        name, {key: coerce(value, knobs[key].type, f"{path}.{key}") for key, value in options.items()}
    )
