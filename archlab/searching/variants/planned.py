"""Costs of a trial's choices at another size and on another device, counted and planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from archlab.config import experiment as config
from archlab.config.domains import Count
from archlab.config.experiment import UnresolvedExperiment
from archlab.config.schema import coerce, reject_unknown
from archlab.config.yaml_files import is_file_name
from archlab.errors import ConfigError, did_you_mean
from archlab.planning.device import Device
from archlab.planning.device_files import load_device
from archlab.searching.variants import selectors
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.cost_request import CostRequest, Costs, CountCosts, count_costs
from archlab.searching.variants.named_experiment import read_named
from archlab.searching.variants.variant import Varied

# Values of a plan beside costs, for a device that must be named.
PLANNED = ("tokens_per_s", "days", "device_hours", "seconds_per_update", "mfu")
PLACE_KEYS = ("at", "device", "devices")
_MODEL = "model"
_MAXIMIZED = ("tokens_per_s", "mfu")


@dataclass(frozen=True)
class Place:
    """Where costs are counted: `at` another experiment, to which a trial's choices below `model` are applied, or the
    trial's own; with a `device`, they are planned for `devices` of it.

    `data` is the place as YAML data, independent of the directory that it was read from.
    """

    at: config.UnresolvedExperiment | None = None
    device: Device | None = None
    devices: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        count = f"{self.devices} x " if self.devices and self.devices > 1 else ""
        parts = ((f"at {self.at.name}" if self.at else ""), (f"on {count}{self.device.name}" if self.device else ""))
        return " ".join(part for part in parts if part)

    def request(
        self, own: UnresolvedExperiment, values: Mapping[str, Any], varied: Mapping[str, Varied]
    ) -> CostRequest:
        """Return the request for the costs of a trial's choices at this place; `varied` are their domains."""
        experiment = own
        if self.at is not None:
            choices = {path: value for path, value in values.items() if selectors.split(path)[0] == _MODEL}
            experiment = apply_values(varied, choices, self.at, f"trial at {self.at.name}", keep_depth=True)
        return CostRequest(experiment, self.device, self.devices)


class TrialCosts:
    """The costs of one trial, each place's counted once."""

    def __init__(
        self,
        experiment: UnresolvedExperiment,
        values: Mapping[str, Any],
        varied: Mapping[str, Varied],
        count: CountCosts = count_costs,
    ) -> None:
        self._experiment, self._values, self._varied, self._count = experiment, values, varied, count
        self._known: dict[str, Costs] = {}

    @cached_property
    def own(self) -> Costs:
        """The costs of the trial's own experiment."""
        return self._count(CostRequest(self._experiment))

    def at(self, place: Place | None) -> Costs:
        """Return the costs at a place, or the trial's own."""
        if place is None:
            return self.own
        if str(place) not in self._known:
            self._known[str(place)] = self._count(place.request(self._experiment, self._values, self._varied))
        return self._known[str(place)]


@dataclass(frozen=True)
class PlannedObjective:
    """An objective that is planned before training, not measured."""

    metric: str
    place: Place
    direction: str

    @property
    def name(self) -> str:
        """The metric with its place, as in "tokens_per_s at megalodon_7b on h100"."""
        return f"{self.metric} {self.place}"

    def to_plain(self) -> dict[str, Any]:
        """Return the objective as YAML data."""
        return {**self.place.data, "direction": self.direction}


def parse_objective(
    metric: str, entry: Mapping[str, Any], costs: Sequence[str], folder: Path, *, recorded: bool = False
) -> PlannedObjective:
    """Read an objective that names a place; raise ConfigError for a value that no plan has."""
    path = f"objectives.{metric}"
    reject_unknown(entry, (*PLACE_KEYS, "direction"), path)
    place = parse_place(entry, path, folder, recorded=recorded)
    require_known(metric, place, costs, "objectives")
    direction = entry.get("direction", "maximize" if metric in _MAXIMIZED else "minimize")
    if direction not in ("minimize", "maximize"):
        raise ConfigError(f"{path}.direction", f"{direction!r} is neither minimize nor maximize")
    return PlannedObjective(metric, place, direction)


def parse_place(entry: Mapping[str, Any], path: str, folder: Path, *, recorded: bool = False) -> Place:
    """Read `at`, `device` and `devices` of an entry; raise ConfigError where none of them says where."""
    at, device, devices = (entry.get(key) for key in PLACE_KEYS)
    if at is None and device is None:
        raise ConfigError(f"{path}.at", "is missing: name an experiment, or a device")
    if devices is not None and device is None:
        raise ConfigError(f"{path}.device", "is missing: name the device of which there are so many")
    return Place(
        at=_read_at(at, f"{path}.at", folder, recorded) if at is not None else None,
        device=_device(device, f"{path}.device", folder) if device is not None else None,
        devices=coerce(devices, Count, f"{path}.devices") if devices is not None else None,
        data={key: _absolute(entry[key], folder) for key in PLACE_KEYS if entry.get(key) is not None},
    )


def require_known(metric: str, place: Place | None, costs: Sequence[str], path: str) -> None:
    """Raise ConfigError for a metric that is neither a cost nor, with a device, part of a plan."""
    has_device = place is not None and place.device is not None
    known = (*costs, *PLANNED) if has_device else costs
    if metric in known:
        return
    if metric in PLANNED:
        raise ConfigError(path, f"{metric} is planned for a device: name it, as in {{device: h100, devices: 8}}")
    raise ConfigError(path, f"no cost {metric!r}{did_you_mean(metric, known)}")


def _read_at(name: Any, path: str, folder: Path, recorded: bool) -> UnresolvedExperiment:
    return read_named(coerce(name, str, path), path, folder, recorded=recorded)


def _device(name: Any, path: str, folder: Path) -> Device:
    try:
        return load_device(coerce(name, str, path), folder)
    except ConfigError as error:
        raise error if error.path == path or error.source else ConfigError(path, error.problem) from None


def _absolute(value: Any, folder: Path) -> Any:
    return str(folder.resolve() / value) if isinstance(value, str) and is_file_name(value) else value
