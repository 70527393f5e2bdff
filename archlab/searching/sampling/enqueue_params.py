"""A trial's values under the names that Optuna has for them, as `enqueue_trial` takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from archlab.config.experiment import UnresolvedExperiment
from archlab.searching.sampling.suggest import suggest
from archlab.searching.variants import selectors
from archlab.searching.variants.parameter_names import Scalar, encode_choice
from archlab.searching.variants.variant import Varied

_STEP = re.compile(r"\.|(?=\[)")


def optuna_parameters(
    varied: Mapping[str, Varied], base: UnresolvedExperiment, values: Mapping[str, Any]
) -> dict[str, Scalar]:
    """Return values by path as Optuna's parameters; paths below a knob without a value are left out."""
    steered = _SteeredTrial(list(varied), values)
    suggest(steered, varied, base)
    return steered.parameters


class _SteeredTrial:
    """Answers each suggestion by the value of its path, and remembers the name under which it was asked for."""

    def __init__(self, varied: Sequence[str], values: Mapping[str, Any]) -> None:
        self.varied, self.values = varied, values
        self.parameters: dict[str, Scalar] = {}
        self.missing: list[str] = []

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        """Return the choice."""
        return self._answer(name, choices[0], choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """Return the integer."""
        return self._answer(name, low)  # type: ignore[return-value]

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """Return the float."""
        return self._answer(name, low)  # type: ignore[return-value]

    def _answer(self, name: str, other: Scalar, choices: Sequence[Scalar] | None = None) -> Scalar:
        # The longest, as the label of a choice within a name may look like a part of a shorter path.
        path = max((path for path in self.varied if _names(name, path)), key=len, default="")
        value = encode_choice(_of_layer(self.values[path], name, path)) if path in self.values else None
        # The name of a knob below a choice that is left to the sampler depends on its choice.
        is_known = path in self.values and not any(selectors.is_ancestor(above, path) for above in self.missing)
        if not is_known or (choices is not None and value not in choices):
            self.missing += [path] if path else []
            return other
        self.parameters[name] = value
        return value


def _of_layer(value: Any, name: str, path: str) -> Any:
    """Return a parameter's own value: that of its layer, where every layer has one."""
    if not selectors.is_each(path):
        return value
    found = re.fullmatch(_pattern(path), name, re.DOTALL)
    assert found is not None
    return value[int(found["layer"])]


def _names(name: str, path: str) -> bool:
    """Return whether a parameter's name is that of a path, with the choices above it and its set of choices."""
    return re.fullmatch(_pattern(path), name, re.DOTALL) is not None


def _pattern(path: str) -> str:
    first, *rest = _STEP.split(path)
    steps = "".join(rf"(=.*?)?{'' if part.startswith('[') else '[.]'}{_part(part)}" for part in rest)
    return rf"{re.escape(first)}{steps}(\{{.*\}})?"


def _part(part: str) -> str:
    return r"\[(?P<layer>\d+)\]" if part == f"[{selectors.EACH}]" else re.escape(part)
