"""The same model at another width: every knob that counts features or heads, scaled with the width."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, get_args, get_origin

from archlab.config import paths
from archlab.config.domains import HEADS, WIDTH
from archlab.config.registry import Slot
from archlab.config.spec import Spec, parse
from archlab.errors import ConfigError, did_you_mean

ROOT = "model"
_PATH = "train.base_model"


def scale_widths(model: Spec, ratio: Fraction, sizes: Mapping[str, int] | None = None) -> Spec:
    """Return a model whose widths, and numbers of heads that allow it, are `ratio` times as large.

    `sizes` are values by path, which go first. Raises ConfigError for a path that is not a number of the model's, or a
    width that the ratio does not divide.
    """
    given = {path: size for pattern, size in (sizes or {}).items() for path in _expand(model, pattern)}
    return parse(_scale(model, ratio, given), model.kind, ROOT)


def _expand(model: Spec, pattern: str) -> list[str]:
    """Return the paths of a pattern with `[*]` that are numbers of the model."""
    numbers = [
        f"{part.path}.{name}"
        for part in model.walk()
        for name, knob in part.component.knobs.items()
        if not isinstance(knob.default, Slot) and _is_whole(knob.type)
    ]
    found = [path for path in paths.expand({ROOT: model.to_plain()}, pattern) if path in numbers]
    if not found:
        raise ConfigError(f"{_PATH}.{pattern}", f"is not a size of the model{did_you_mean(pattern, numbers)}")
    return found


def _is_whole(expected: Any) -> bool:
    is_list = get_origin(expected) is list
    return expected is int or (not is_list and any(_is_whole(argument) for argument in get_args(expected)))


def _scale(spec: Spec, ratio: Fraction, given: Mapping[str, int]) -> dict[str, Any]:
    knobs = {name: _scale_knob(spec, name, value, ratio, given) for name, value in spec.knobs.items()}
    return {"type": spec.name, **({} if spec.repeat == 1 else {"repeat": spec.repeat}), **knobs}


def _scale_knob(spec: Spec, name: str, value: Any, ratio: Fraction, given: Mapping[str, int]) -> Any:
    if isinstance(value, Spec):
        return _scale(value, ratio, given)
    if isinstance(value, list):
        return [_scale(entry, ratio, given) if isinstance(entry, Spec) else entry for entry in value]
    path, marks = f"{spec.path}.{name}", _marks(spec.component.knobs[name].type)
    if path in given or not marks & {WIDTH, HEADS} or not isinstance(value, int):
        return given.get(path, value)
    scaled = value * ratio
    if scaled.denominator == 1:
        return int(scaled)
    if HEADS in marks:  # whose width grows instead
        return value
    raise ConfigError(path, f"{value} times {ratio} is {float(scaled):g}, no whole number: set it in {_PATH}")


def is_heads(expected: Any) -> bool:
    """Return whether a knob's type is that of a number of heads."""
    return HEADS in _marks(expected)


def _marks(expected: Any) -> set[str]:
    """Return the marks that annotate a knob's type."""
    own = {a for a in get_args(expected)[1:] if isinstance(a, str)} if get_origin(expected) is Annotated else set[str]()
    return own.union(*(_marks(argument) for argument in get_args(expected)))
