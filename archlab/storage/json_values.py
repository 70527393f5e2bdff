"""Values in JSON files that archlab wrote, checked without trust."""

from __future__ import annotations

import math
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, one_line

_Record = TypeVar("_Record")


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number that a float can hold, NaN and infinity included; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_finite(value: object) -> bool:
    """Return whether a JSON value is a finite number."""
    return is_number(value) and math.isfinite(value)  # type: ignore[arg-type]


def is_count(value: object) -> bool:
    """Return whether a JSON value is a whole number from 0 on that a tensor can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def has_type(value: object, expected: Any) -> bool:
    """Return whether a JSON value has a type such as `dict[str, float]`, where null is a number that is not finite.

    Types that JSON does not have, such as `Any`, fit everything.
    """
    origin, args = get_origin(expected), get_args(expected)
    if origin is dict:
        return isinstance(value, dict) and all(has_type(entry, args[1]) for entry in value.values())
    if origin is list:
        return isinstance(value, list) and all(has_type(entry, args[0]) for entry in value)
    if origin in (Union, UnionType):
        return any(has_type(value, member) for member in args)
    if expected is float:
        return value is None or is_number(value)
    if expected is int:
        return is_number(value) and isinstance(value, int)
    return isinstance(value, expected) if expected in (str, bool, type(None)) else True


def read_record(cls: type[_Record], file: Path, what: str) -> _Record:
    """Return the dataclass that a file holds as a JSON object; raise ArchlabError if the file is not `what`."""
    try:
        record = cls(**read_object(file, what))
    except TypeError as error:
        raise ArchlabError(f"{file}: is not {what}: {one_line(error)}") from error
    require_fields(record, file)
    return record


def require_fields(record: Any, file: Path) -> None:
    """Raise ArchlabError naming the first field of a dataclass, read from a file, that is not of its type."""
    hints = get_type_hints(type(record))
    for name, value in vars(record).items():
        if not has_type(value, hints[name]):
            raise ArchlabError(f"{file}: {name} is not of its type, but {value!r:.40}")
