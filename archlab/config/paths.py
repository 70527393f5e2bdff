"""Paths in a YAML tree: `model.layers[0].mixer.ema`, with `[*]` for every entry of a list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any, TypeAlias

from archlab.config.path_hints import hint_of_index, hint_of_path
from archlab.errors import ConfigError

Part: TypeAlias = str | int
# One spelling for each path, since two would be two knobs to `vary:`: a dot before every key but the first, and indices
# in ASCII without leading zeros.
_STEP = re.compile(r"(?:^|\.)([^.\[\]=\s]+)|\[(0|[1-9][0-9]{0,8}|\*)\]")
_LONGEST = 100  # parts: a path makes a tree of as many levels


def split(path: str) -> list[Part]:
    """Split a path into keys and indices; `*` stands for every index."""
    parts: list[Part] = []
    position = 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None or (position == 0 and path.startswith((".", "["))):
            raise ConfigError(path or "''", "is not a path like model.layers[0].mixer")
        key, index = step.groups()
        parts.append(key if key is not None else index if index == "*" else int(index))
        position = step.end()
    if len(parts) > _LONGEST:
        raise ConfigError(path, f"has more than {_LONGEST} parts")
    if not parts:
        raise ConfigError("''", "is not a path like model.layers[0].mixer")
    return parts


def join(parts: list[Part]) -> str:
    """Join keys and indices to a path, the inverse of `split`."""
    text = "".join(f"[{part}]" if isinstance(part, int) or part == "*" else f".{part}" for part in parts)
    return text.removeprefix(".")


def get(tree: Any, path: str, missing: Any = None) -> Any:
    """Return the value at a path without `[*]`, or `missing` if there is none."""
    for part in split(path):
        if isinstance(tree, str) and part == "type":  # a component may be its bare name
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
    """Return a copy of the tree with the value set at a path; bare component names above it become mappings."""
    copy = deepcopy(tree)
    *above, last = split(path)
    node: Any = copy
    for part, following in pairwise([*above, last]):
        node = _descend(node, part, path, following, tree)
    _check_index(node, last, path)
    node[last] = value
    return copy


def _descend(node: Any, part: Part, path: str, following: Part, tree: Mapping[str, Any]) -> Any:
    _check_index(node, part, path)
    if isinstance(part, str) and node.get(part) is None:
        if not isinstance(following, str):  # a missing mapping is created, a missing list has no entry to set
            raise ConfigError(path, f"there is no list {part!r}{hint_of_path(tree, split(path), path)}")
        node[part] = {}
    if isinstance(node[part], str):
        node[part] = {"type": node[part]}
    return node[part]


def _check_index(node: Any, part: Part, path: str) -> None:
    if isinstance(part, int):
        if not isinstance(node, list):
            raise ConfigError(path, f"[{part}] indexes a value that is not a list")
        if part >= len(node):
            hint = hint_of_index(node, part, path.partition(f"[{part}]")[0])
            raise ConfigError(path, f"[{part}] is past the end of a list of {len(node)}{hint}")
    elif not isinstance(node, dict):
        raise ConfigError(path, f"{part!r} is a key of a value that is not a mapping")


def expand(tree: Any, path: str) -> list[str]:
    """Return the paths that a path with `[*]` matches in a tree."""
    matches: list[list[Part]] = [[]]
    for part in split(path):
        if part == "*":
            matches = [[*parts, index] for parts in matches for index in range(_length(tree, parts, path))]
        else:
            matches = [[*parts, part] for parts in matches]
    return [join(parts) for parts in matches]


def _length(tree: Any, parts: list[Part], path: str) -> int:
    entries = get(tree, join(parts))
    if not isinstance(entries, list):
        raise ConfigError(path, f"{join(parts)} is not a list{hint_of_path(tree, parts, path)}")
    return len(entries)


def merge(base: Any, over: Any) -> Any:
    """Merge `over` into `base`: mappings merge unless their component type differs; other values are replaced."""
    if not isinstance(over, dict):
        return deepcopy(over)
    # Another type has other knobs: keeping those of the base would make unknown keys of them.
    if isinstance(base, str) and "type" not in over:
        base = {"type": base}
    if not isinstance(base, dict) or over.get("type", base.get("type")) != base.get("type"):
        return deepcopy(over)
    merged = {key: deepcopy(value) for key, value in base.items() if key not in over}
    merged.update({key: merge(base.get(key), value) for key, value in over.items()})
    return {key: merged[key] for key in [*base, *over] if key in merged}
