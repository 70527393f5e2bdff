"""Where the workers of a search run, in YAML: a launcher with its options, and the resources of each worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from archlab.config.domains import Count, Range
from archlab.config.schema import REQUIRED, coerce, knobs_of, reject_unknown
from archlab.errors import ConfigError
from archlab.runtime.launch import Launcher, Resources, find_launcher

_NUMBERS = {
    "cpus": Count,
    "gpus": Annotated[int, Range(low=0)],
    "time_limit": Annotated[float, Range(low=0, above=True)],
}


def parse_placement(section: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Read `launcher` and `resources` of a section; raise ConfigError for resources that no launcher is asked for."""
    if section.get("launcher") is None:
        if section.get("resources") is not None:
            raise ConfigError(f"{path}.resources", f"are of workers that {path}.launcher places, and there is none")
        return {}
    launcher = parse_launcher(section["launcher"], f"{path}.launcher")
    return {"launcher": launcher, "resources": _parse_resources(section.get("resources"), f"{path}.resources")}


def _parse_resources(data: Any, path: str) -> Resources:
    if data is None:
        return Resources()
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"{data!r} is not a mapping such as {{cpus: 4, gpus: 1}}")
    reject_unknown(data, tuple(_NUMBERS), path)
    return Resources(**{key: coerce(value, _NUMBERS[key], f"{path}.{key}") for key, value in data.items()})


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
    """Check a launcher's name and options against the class that has them; raise ConfigError for a mismatch."""
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
