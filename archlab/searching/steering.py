"""A trial's values under the names that Optuna has for them, as `enqueue_trial` takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from archlab.config.domains import Domain
from archlab.config.experiment import UnresolvedExperiment
from archlab.searching.parameters import is_ancestor
from archlab.searching.suggest import Scalar, encode_choice, suggest

_STEP = re.compile(r"\.|(?=\[)")


def optuna_parameters(
    vary: Mapping[str, Domain | None], base: UnresolvedExperiment, values: Mapping[str, Any]
) -> dict[str, Scalar]:
    """Return values by path as Optuna's parameters; what lies below a knob without a value is left out."""
    steered = _SteeredTrial(list(vary), values)
    suggest(steered, vary, base)
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
        value = encode_choice(self.values[path]) if path in self.values else None
        # The name of a knob below a choice that is left to the sampler depends on what that will choose.
        is_known = path in self.values and not any(is_ancestor(above, path) for above in self.missing)
        if not is_known or (choices is not None and value not in choices):
            self.missing += [path] if path else []
            return other
        self.parameters[name] = value
        return value


def _names(name: str, path: str) -> bool:
    """Tell whether a parameter's name is that of a path, with the choices above it and its set of choices."""
    first, *rest = _STEP.split(path)
    steps = "".join(rf"(=.*?)?{'' if part.startswith('[') else '[.]'}{re.escape(part)}" for part in rest)
    return re.fullmatch(rf"{re.escape(first)}{steps}(\{{.*\}})?", name, re.DOTALL) is not None
