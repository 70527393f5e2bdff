"""Places in a YAML tree: `model.layers[0].mixer.ema`, and `[*]` for every entry of a list."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any, TypeAlias

from archlab.errors import ConfigError

Part: TypeAlias = str | int
_STEP = re.compile(r"\.?([^.\[\]=\s]+)|\[(\d+|\*)\]")


def split(path: str) -> list[Part]:
    """Return the keys and indices of a path; `*` stands for every index."""
    parts: list[Part] = []
    place = 0
    while place < len(path):
        step = _STEP.match(path, place)
        if step is None or (place == 0 and path.startswith(".")):
            raise ConfigError(path or "''", "is not a path like model.layers[0].mixer")
        key, index = step.groups()
        parts.append(key if key is not None else index if index == "*" else int(index))
        place = step.end()
    if not parts:
        raise ConfigError("''", "is not a path like model.layers[0].mixer")
    return parts


def join(parts: list[Part]) -> str:
    """Return the path that `split` reads as these parts."""
    text = "".join(f"[{part}]" if isinstance(part, int) or part == "*" else f".{part}" for part in parts)
    return text.removeprefix(".")


def get(tree: Any, path: str, missing: Any = None) -> Any:
    """Return the value at a path without `[*]`, or `missing` where there is none."""
    for part in split(path):
        if isinstance(tree, str) and part == "type":
            return tree
        if not _holds(tree, part):
            return missing
        tree = tree[part]
    return tree


def _holds(tree: Any, part: Part) -> bool:
    if isinstance(tree, list):
        return isinstance(part, int) and part < len(tree)
    return isinstance(tree, dict) and part in tree


def put(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of the tree with the value at a path; a bare component name becomes a mapping on the way."""
    copy = deepcopy(tree)
    *above, last = split(path)
    place: Any = copy
    for depth, part in enumerate(above):
        place = _enter(place, part, path, [*above, last][depth + 1])
    _check_index(place, last, path)
    place[last] = value
    return copy


def _enter(place: Any, part: Part, path: str, following: Part) -> Any:
    _check_index(place, part, path)
    if isinstance(part, str) and place.get(part) is None:
        if not isinstance(following, str):
            raise ConfigError(path, f"there is no list {part!r}")
        place[part] = {}
    if isinstance(place[part], str):
        place[part] = {"type": place[part]}
    return place[part]


def _check_index(place: Any, part: Part, path: str) -> None:
    if isinstance(part, int):
        if not isinstance(place, list):
            raise ConfigError(path, f"[{part}] is asked of what is no list")
        if part >= len(place):
            raise ConfigError(path, f"[{part}] is past the end of a list of {len(place)}")
    elif not isinstance(place, dict):
        raise ConfigError(path, f"{part!r} is asked of what is no mapping")


def expand(tree: Any, path: str) -> list[str]:
    """Return the paths that a path with `[*]` stands for in this tree."""
    found: list[list[Part]] = [[]]
    for part in split(path):
        if part == "*":
            found = [[*parts, place] for parts in found for place in range(_length(tree, parts, path))]
        else:
            found = [[*parts, part] for parts in found]
    return [join(parts) for parts in found]


def _length(tree: Any, parts: list[Part], path: str) -> int:
    entries = get(tree, join(parts))
    if not isinstance(entries, list):
        raise ConfigError(path, f"{join(parts)} is no list")
    return len(entries)


def merge(base: Any, over: Any) -> Any:
    """Return `base` with `over` laid on it: mappings merge, unless the type changes; all else is replaced."""
    if not isinstance(over, dict):
        return deepcopy(over)
    if isinstance(base, str) and "type" not in over:
        base = {"type": base}
    if not isinstance(base, dict) or over.get("type", base.get("type")) != base.get("type"):
        return deepcopy(over)
    merged = {key: deepcopy(value) for key, value in base.items() if key not in over}
    merged.update({key: merge(base.get(key), value) for key, value in over.items()})
    return {key: merged[key] for key in [*base, *over] if key in merged}
