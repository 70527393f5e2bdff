"""A signature read as a schema: names, types and defaults of what YAML may set."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from archlab.config.domains import Range
from archlab.config.renames import now_called
from archlab.errors import ConfigError, did_you_mean

REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Knob:
    """One value that YAML may set; `default` is REQUIRED where there is none."""

    name: str
    type: Any = field(repr=False)
    default: Any

    @property
    def type_name(self) -> str:
        """The type as a person would write it."""
        return type_name(self.type)


def knobs_of(function: Callable[..., Any]) -> dict[str, Knob]:
    """Return the keyword-only parameters of a function as knobs, in their order."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: Knob(p.name, hints[p.name], p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def wiring_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the positional parameters that the model supplies."""
    parameters = list(inspect.signature(function).parameters.values())
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]


def reject_unknown(
    given: Mapping[Any, Any], known: Sequence[str], path: str, owner: str = "", renamed: Mapping[str, str] | None = None
) -> None:
    """Raise ConfigError for the first unknown key; `renamed` maps former names of keys to new ones."""
    for key in given:
        if key not in known and renamed and key in renamed:
            raise ConfigError(path, now_called(f"knob {key!r} of {owner!r}", renamed[key]), key=str(key))
        if key not in known:
            of = f" of {owner!r}" if owner else ""
            what = f"unknown {'knob' if owner else 'key'} {key!r}{of}{did_you_mean(key, known)}"
            raise ConfigError(path, what, key=str(key))


def coerce(value: Any, expected: Any, path: str) -> Any:
    """Return `value` as the expected type, or raise ConfigError naming what would be right."""
    origin, args = get_origin(expected), get_args(expected)
    if origin is Annotated:
        checked = coerce(value, args[0], path)
        _check_range(checked, args[1:], path)
        return checked
    if origin in (Union, types.UnionType):
        return _check_union(value, args, path)
    if origin is Literal:
        return _check_literal(value, args, path)
    if origin in (list, Sequence):
        return _check_list(value, args[0], path)
    return _check_scalar(value, expected, path)


def _check_range(value: Any, limits: Sequence[Any], path: str) -> None:
    for limit in limits:
        if isinstance(limit, Range) and value not in limit:
            raise ConfigError(path, f"{value!r} is not {limit if value < limit.high else f'at most {limit.high:g}'}")


def _check_union(value: Any, options: Sequence[Any], path: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    for option in rest[:-1]:
        try:
            return coerce(value, option, path)
        except ConfigError:
            continue
    return coerce(value, rest[-1], path)


def _check_literal(value: Any, options: Sequence[Any], path: str) -> Any:
    if any(value == option and type(value) is type(option) for option in options):
        return value
    if isinstance(value, bool):
        value = "on" if value else "off"  # YAML reads the words on and off as booleans
        if value in options:
            return value
    raise ConfigError(path, f"{value!r} is not one of its values{did_you_mean(value, map(str, options))}")


def _check_list(value: Any, item: Any, path: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(path, f"{value!r} is not a list")
    return [coerce(entry, item, f"{path}[{place}]") for place, entry in enumerate(value)]


def _check_scalar(value: Any, expected: type, path: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if expected is float and number:
        return _finite(value, path)
    if expected is int and number and _is_whole(value):
        return int(value)
    if expected in (str, bool) and type(value) is expected:
        return value
    raise ConfigError(path, f"{value!r} is not {type_name(expected)}")


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()


def _finite(value: float, path: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(path, f"{value!r} is not a finite number")
    return number


def type_name(expected: Any) -> str:
    """Name a type for a person, as in "a whole number at least 1"."""
    origin, args = get_origin(expected), get_args(expected)
    if origin is Annotated:
        limits = " ".join(str(limit) for limit in args[1:] if isinstance(limit, Range))
        return f"{type_name(args[0])} {limits}".strip()
    if origin in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else type_name(option) for option in args)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in args)
    if origin in (list, Sequence):
        return f"a list of {type_name(args[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(expected, getattr(expected, "__name__", str(expected)))
