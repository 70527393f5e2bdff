"""The first difference of two resolved YAML trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _equal(path: str, old: Any, new: Any) -> bool:
    return old == new


def first_difference(old: Any, new: Any, is_equal: Callable[[str, Any, Any], bool] = _equal, path: str = "") -> str:
    """Describe the first difference between the tree `old` of a directory and the requested `new`, or return "".

    `is_equal(path, old, new)` may accept values that differ.
    """
    if is_equal(path, old, new):
        return ""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        inner = [
            first_difference(old.get(key), new.get(key), is_equal, f"{path}.{key}".removeprefix(".")) for key in keys
        ]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        inner = [first_difference(*pair, is_equal, f"{path}[{index}]") for index, pair in pairs]
    else:
        return f"{path} is {old!r} there and {new!r} here"
    return next(filter(None, inner), "")
