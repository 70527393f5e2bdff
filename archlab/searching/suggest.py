"""Suggestions for one trial: knobs in order of depth, those that exist given the choices above them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from archlab.config import paths
from archlab.config.domains import Choice, Domain
from archlab.config.experiment import UnresolvedExperiment
from archlab.errors import ConfigError
from archlab.searching.parameters import SearchParameter, is_ancestor, resolve_parameter, sort_by_depth
from archlab.text import HIDDEN, visible

Scalar: TypeAlias = "str | int | float | bool | None"
_MAX_LENGTH = 60


class SuggestingTrial(Protocol):
    """The methods of an Optuna trial that suggest values."""

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        """Suggest one of several values."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Suggest an integer."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Suggest a float."""


def suggest(trial: SuggestingTrial, vary: Mapping[str, Domain | None], base: UnresolvedExperiment) -> dict[str, Any]:
    """Return a value for every knob that exists, by path, ancestors first."""
    values: dict[str, Any] = {}
    experiment = base
    for path in sort_by_depth(vary):
        parameter = resolve_parameter(path, vary[path], experiment)
        if parameter is not None:
            values[path] = _suggest(trial, parameter, _name(path, values))
            experiment = experiment.override({path: values[path]}, "trial")
    return values


def _suggest(trial: SuggestingTrial, parameter: SearchParameter, name: str) -> Any:
    domain = parameter.domain
    if isinstance(domain, Choice):
        labels = encode_choices(domain, parameter.path)
        label = trial.suggest_categorical(f"{name}{_choices_digest(list(labels))}", list(labels))
        return labels[label]
    if parameter.is_integer:
        step = 1 if domain.step is None else int(domain.step)
        return trial.suggest_int(name, int(domain.low), int(domain.high), step=step, log=domain.log)
    return trial.suggest_float(name, float(domain.low), float(domain.high), step=domain.step, log=domain.log)


def _name(path: str, values: Mapping[str, Any]) -> str:
    """Return Optuna's name of a knob: its path, with each choice above it after the part that was chosen.

    `model.layers[*].mixer.ema=cema.num_dims`: one knob below different choices is several parameters to the sampler.
    """
    choices = {len(paths.split(above)): encode_choice(values[above]) for above in values if is_ancestor(above, path)}
    name: str = ""
    for depth, part in enumerate(paths.split(path), 1):
        name += f"[{part}]" if isinstance(part, int) or part == "*" else f".{part}"
        name += f"={_short(str(choices[depth]))}" if depth in choices else ""
    return name.removeprefix(".")


def encode_choices(domain: Choice, path: str) -> dict[Scalar, Any]:
    """Map Optuna's label of each choice to the choice, in an order independent of the YAML's."""
    labels = {encode_choice(value): value for value in domain.values}
    if len(labels) < len(domain.values):
        raise ConfigError(f"vary.{path}", "two choices are equal")
    return dict(sorted(labels.items(), key=lambda item: _rank(item[0])))


def _rank(name: Scalar) -> tuple[bool, float, str]:
    number = isinstance(name, int | float)
    return (not number, float(name) if isinstance(name, int | float) else 0.0, str(name))


def encode_choice(value: Any) -> Scalar:
    """Return a choice as the scalar that Optuna stores: itself, or compact JSON for a mapping or a list."""
    if isinstance(value, Mapping | list):
        return json.dumps(value, separators=(",", ":"), sort_keys=True)
    return value


def _choices_digest(labels: list[Scalar]) -> str:
    """Return a suffix that identifies a set of choices: Optuna does not let the choices of one parameter change."""
    return "{" + _short(",".join(str(name) for name in labels)) + "}"


def _short(text: str) -> str:
    if len(text) <= _MAX_LENGTH and not HIDDEN.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{visible(text)[: _MAX_LENGTH - 12].rstrip()}~{digest}"
