"""Where two resolved YAML trees differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _equal(path: str, old: Any, new: Any) -> bool:
    return old == new


def first_difference(old: Any, new: Any, is_equal: Callable[[str, Any, Any], bool] = _equal, path: str = "") -> str:
    """Name the first place where what stands in a folder is not what was asked for, or return nothing.

    `is_equal(path, old, new)` says what counts as no difference.
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
        inner = [first_difference(*pair, is_equal, f"{path}[{place}]") for place, pair in pairs]
    else:
        return f"{path} is {old!r} there and {new!r} here"
    return next(filter(None, inner), "")
