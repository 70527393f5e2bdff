"""From a search space to one trial: Optuna is asked about the knobs that exist, once those above them are chosen."""

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

Scalar: TypeAlias = "str | int | float | bool | None"
_LONGEST = 60


class SuggestingTrial(Protocol):
    """The part of an Optuna trial that picks values."""

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        """Pick one of some values."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Pick a whole number."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Pick a number."""


def suggest(trial: SuggestingTrial, vary: Mapping[str, Domain | None], base: UnresolvedExperiment) -> dict[str, Any]:
    """Return a value for every knob that exists, by path, those above first."""
    values: dict[str, Any] = {}
    raw = base
    for path in sort_by_depth(vary):
        varied = resolve_parameter(path, vary[path], raw)
        if varied is not None:
            values[path] = _ask(trial, varied, _name(path, values))
            raw = raw.override({path: values[path]}, "trial")
    return values


def _ask(trial: SuggestingTrial, varied: SearchParameter, name: str) -> Any:
    domain = varied.domain
    if isinstance(domain, Choice):
        labels = encode_choices(domain, varied.path)
        chosen = trial.suggest_categorical(f"{name}{_choices_digest(list(labels))}", list(labels))
        return labels[chosen]
    if varied.whole:
        step = 1 if domain.step is None else int(domain.step)
        return trial.suggest_int(name, int(domain.low), int(domain.high), step=step, log=domain.log)
    return trial.suggest_float(name, float(domain.low), float(domain.high), step=domain.step, log=domain.log)


def _name(path: str, values: Mapping[str, Any]) -> str:
    """Return Optuna's name of a knob: its path, with each choice made above it behind the place of that choice."""
    chosen = {len(paths.split(above)): encode_choice(values[above]) for above in values if is_ancestor(above, path)}
    name: str = ""
    for depth, part in enumerate(paths.split(path), 1):
        name += f"[{part}]" if isinstance(part, int) or part == "*" else f".{part}"
        name += f"={_short(str(chosen[depth]))}" if depth in chosen else ""
    return name.removeprefix(".")


def encode_choices(domain: Choice, path: str) -> dict[Scalar, Any]:
    """Map what Optuna knows each choice as to the choice, in an order that does not depend on the YAML's."""
    labels = {encode_choice(value): value for value in domain.values}
    if len(labels) < len(domain.values):
        raise ConfigError(f"vary.{path}", "two choices look alike")
    return dict(sorted(labels.items(), key=lambda item: _rank(item[0])))


def _rank(name: Scalar) -> tuple[bool, float, str]:
    number = isinstance(name, int | float)
    return (not number, float(name) if isinstance(name, int | float) else 0.0, str(name))


def encode_choice(value: Any) -> Scalar:
    """Return a choice as the scalar that Optuna keeps: itself, or compact JSON for a mapping or a list."""
    if isinstance(value, Mapping | list):
        return json.dumps(value, separators=(",", ":"), sort_keys=True)
    return value


def _choices_digest(labels: list[Scalar]) -> str:
    """Name a set of choices by its content, because Optuna refuses that a parameter's choices change."""
    return "{" + _short(",".join(str(name) for name in labels)) + "}"


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - 12].rstrip()}~{hashlib.sha256(text.encode()).hexdigest()[:10]}"
