"""Constructor signatures as schemas: the names, types and defaults of knobs, and validation against them."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from archlab.config.domains import Range
from archlab.config.renames import former_name_message
from archlab.errors import ConfigError, did_you_mean, show_value

REQUIRED: Any = inspect.Parameter.empty
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Knob:
    """A value that YAML may set; `default` is REQUIRED if there is none."""

    name: str
    type: Any = field(repr=False)
    default: Any

    @property
    def type_name(self) -> str:
        """The type in words, for error messages and tables."""
        return type_name(self.type)


def knobs_of(function: Callable[..., Any]) -> dict[str, Knob]:
    """Return the keyword-only parameters of a function as knobs, in order of declaration."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: Knob(p.name, hints[p.name], p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def settings_of(section: type) -> dict[str, Knob]:
    """Return the fields of a dataclass of settings as knobs, in order of declaration."""
    return dict(_settings_of(section))


@cache  # a search asks at every value that it puts into an experiment
def _settings_of(section: type) -> dict[str, Knob]:
    hints = typing.get_type_hints(section, include_extras=True)
    defaults = {f.name: REQUIRED if f.default is MISSING else f.default for f in fields(section)}
    return {name: Knob(name, hints[name], default) for name, default in defaults.items()}


def parse_settings(value: Any, section: type[Settings], path: str) -> Settings:
    """Parse a mapping of settings; raise ConfigError for an unknown or missing one, and for a value that is invalid."""
    if not isinstance(value, Mapping):
        raise ConfigError(path, f"{show_value(value)} is not a mapping of settings")
    knobs = settings_of(section)
    reject_unknown(value, list(knobs), path)
    for knob in knobs.values():
        if knob.default is REQUIRED and value.get(knob.name) is None:
            raise ConfigError(path, f"needs {knob.name!r}: {knob.type_name}")
    at = f"{path}." if path else ""
    return section(**{key: coerce(setting, knobs[key].type, f"{at}{key}") for key, setting in value.items()})


def settings_to_plain(settings: Any) -> dict[str, Any]:
    """Return a dataclass of settings as YAML data, without values that equal their defaults."""
    knobs = settings_of(type(settings))
    return {name: value for name, value in asdict(settings).items() if value != knobs[name].default}


def section_of(expected: Any) -> type | None:
    """Return the dataclass of settings that a type is, alone or beside null, or None."""
    kinds = (member.type for member in union_members(expected))
    return next((each for each in kinds if isinstance(each, type) and is_dataclass(each)), None)


def wiring_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of the positional parameters, which the model supplies."""
    parameters = list(inspect.signature(function).parameters.values())
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]


def reject_unknown(
    mapping: Mapping[Any, Any],
    known: Sequence[str],
    path: str,
    owner: str = "",
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Raise ConfigError for the first unknown key of a mapping; `renamed` maps former names of keys to new ones."""
    for key in mapping:
        if key not in known and renamed and key in renamed:
            raise ConfigError(path, former_name_message(f"knob {key!r} of {owner!r}", renamed[key]), key=str(key))
        if key not in known:
            of = f" of {owner!r}" if owner else ""
            problem = f"unknown {'knob' if owner else 'key'} {key!r}{of}{did_you_mean(key, known)}"
            raise ConfigError(path, problem, key=str(key))


@dataclass(frozen=True)
class UnionMember:
    """One of the types that a value may have, with the ranges that annotate it."""

    type: Any
    ranges: tuple[Range, ...] = ()


def union_members(expected: Any) -> list[UnionMember]:
    """Return the members of a union, nested ones included, or the one type that is not a union."""
    origin, args = get_origin(expected), get_args(expected)
    if origin is Annotated:
        ranges = tuple(limit for limit in args[1:] if isinstance(limit, Range))
        return [UnionMember(member.type, member.ranges + ranges) for member in union_members(args[0])]
    if origin in (Union, types.UnionType):
        return [member for option in args for member in union_members(option)]
    return [UnionMember(expected)]


def coerce(value: Any, expected: Any, path: str) -> Any:
    """Convert a value to the expected type; raise ConfigError naming that type if it does not fit."""
    members = union_members(expected)
    if value is None and any(member.type is type(None) for member in members):
        return None
    *others, last = (member for member in members if member.type is not type(None))
    for member in others:
        try:
            return _coerce_member(value, member, path)
        except ConfigError:
            continue
    return _coerce_member(value, last, path)  # the error of the last member is the one that a user sees


def _coerce_member(value: Any, member: UnionMember, path: str) -> Any:
    origin, args = get_origin(member.type), get_args(member.type)
    if origin is Literal:
        return _check_literal(value, args, path)
    if origin in (list, Sequence):
        return _check_list(value, args[0], path)
    if isinstance(member.type, type) and is_dataclass(member.type):
        return parse_settings(value, member.type, path)
    if origin is dict:
        return _check_mapping(value, args[1], path)
    number = _check_scalar(value, member.type, path)
    for limit in member.ranges:
        if number not in limit:
            raise ConfigError(
                path, f"{show_value(number)} is not {limit if number < limit.high else f'at most {limit.high:g}'}"
            )
    return number


def _check_literal(value: Any, options: Sequence[Any], path: str) -> Any:
    if any(value == option and type(value) is type(option) for option in options):
        return value
    if isinstance(value, bool):
        value = "on" if value else "off"  # YAML 1.1 reads on and off as booleans
        if value in options:
            return value
    raise ConfigError(path, f"{show_value(value)} is not one of its values{did_you_mean(value, map(str, options))}")


def _check_list(value: Any, item: Any, path: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(path, f"{show_value(value)} is not a list")
    return [coerce(entry, item, f"{path}[{index}]") for index, entry in enumerate(value)]


def _check_mapping(value: Any, item: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(path, f"{show_value(value)} is not a mapping of texts to {type_name(item)}")
    return {key: coerce(entry, item, f"{path}.{key}") for key, entry in value.items()}


def _check_scalar(value: Any, expected: type, path: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if expected is float and number:
        return _finite(value, path)
    if expected is int and number and _is_whole(value):
        return int(value)
    if expected in (str, bool) and type(value) is expected:
        return value
    raise ConfigError(path, f"{show_value(value)} is not {type_name(expected)}{_advice(value, expected)}")


def _advice(value: Any, expected: type) -> str:
    """Return the value that was meant, for a text that YAML reads as a number and a number that it reads as a text."""
    if expected is str and isinstance(value, bool | int | float):
        return "; write a text like this in quotes"
    if expected in (int, float) and isinstance(value, str):
        with suppress(ValueError):
            number = float(value)
            if math.isfinite(number):
                return f"; did you mean {int(number) if number.is_integer() else number}?"
    return ""


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()


def _finite(value: float, path: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(path, f"{show_value(value)} is not a finite number")
    return number


def type_name(expected: Any) -> str:
    """Describe a type in words, such as "a whole number at least 1"."""
    return " or ".join(" ".join((_member_name(m.type), *map(str, m.ranges))) for m in union_members(expected))


def _member_name(member: Any) -> str:
    origin, args = get_origin(member), get_args(member)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in args)
    if origin in (list, Sequence):
        return f"a list of {type_name(args[0])}"
    if isinstance(member, type) and is_dataclass(member):
        return f"a mapping of {', '.join(settings_of(member))}"
    if origin is dict:
        return f"a mapping to {type_name(args[1])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(member, getattr(member, "__name__", str(member)))
