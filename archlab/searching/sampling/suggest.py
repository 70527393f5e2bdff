"""Suggestions for one trial: knobs in order of depth, those that exist given the choices above them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from archlab.config.domains import Choice, Tie
from archlab.config.experiment import UnresolvedExperiment
from archlab.errors import ConfigError
from archlab.searching.sampling.suggest_pattern import suggest_pattern
from archlab.searching.variants.apply import each_lists, tied_value
from archlab.searching.variants.parameter_names import Names, Scalar, choices_digest, encode_choice
from archlab.searching.variants.parameters import SearchParameter, resolve_parameter
from archlab.searching.variants.pattern import Pattern
from archlab.searching.variants.references import sort_paths
from archlab.searching.variants.variant import MISSING, Held, Variant, Varied, start


class SuggestingTrial(Protocol):
    """The methods of an Optuna trial that suggest values."""

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        """Suggest one of several values."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Suggest an integer."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Suggest a float."""


def suggest(
    trial: SuggestingTrial, varied: Mapping[str, Varied], base: UnresolvedExperiment, *, exhaustive: bool = False
) -> dict[str, Any]:
    """Return a value for every knob that exists, by path, ancestors first.

    `exhaustive` is for a sampler that tries everything once: it is asked for allowed patterns only.
    """
    values: dict[str, Any] = {}
    variant = start(base, each_lists(varied), "trial")
    names = Names()
    for path in sort_paths(varied):
        value = _suggest_path(trial, path, varied[path], variant, names, exhaustive)
        if value is not MISSING:
            values[path] = value
            variant = variant.put(path, varied[path], value)
            names.choose(path, varied[path], value, variant)
    return values


def _suggest_path(
    trial: SuggestingTrial, path: str, domain: Varied, variant: Variant, names: Names, exhaustive: bool
) -> Any:
    if isinstance(domain, Held):
        return MISSING
    if isinstance(domain, Pattern):
        return suggest_pattern(trial, names.of(path), domain, exhaustive)
    if isinstance(domain, Tie):
        return tied_value(path, domain, variant)
    own = variant.parameter_paths(path)
    found = {one: p for one in own if (p := resolve_parameter(one, domain, variant)) is not None}
    if not found:
        return MISSING
    if own == [path]:
        return _suggest(trial, found[path], names.of(path))
    return [_suggest(trial, found[one], names.of(one)) if one in found else None for one in own]


def _suggest(trial: SuggestingTrial, parameter: SearchParameter, name: str) -> Any:
    domain = parameter.domain
    if isinstance(domain, Choice):
        labels = encode_choices(domain, parameter.path)
        label = trial.suggest_categorical(f"{name}{choices_digest(list(labels))}", list(labels))
        return labels[label]
    if parameter.is_integer:
        step = 1 if domain.step is None else int(domain.step)
        return trial.suggest_int(name, int(domain.low), int(domain.high), step=step, log=domain.log)
    return trial.suggest_float(name, float(domain.low), float(domain.high), step=domain.step, log=domain.log)


def encode_choices(domain: Choice, path: str) -> dict[Scalar, Any]:
    """Map Optuna's label of each choice to the choice, in an order independent of the YAML's."""
    labels = {encode_choice(value): value for value in domain.values}
    if len(labels) < len(domain.values):
        raise ConfigError(f"vary.{path}", "two choices are equal")
    return dict(sorted(labels.items(), key=lambda item: _rank(item[0])))


def _rank(name: Scalar) -> tuple[bool, float, str]:
    number = isinstance(name, int | float)
    return (not number, float(name) if isinstance(name, int | float) else 0.0, str(name))
