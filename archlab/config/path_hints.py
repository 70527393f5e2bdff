"""Suggestions for a path that an experiment does not have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from archlab.errors import nearest

REPEAT = "repeat"


def hint_of_index(entries: Sequence[Any], index: int, place: str) -> str:
    """Return the entry of a repeating list for an index past its end, or nothing.

    `place` is the path of the list.
    """
    counts = [entry.get(REPEAT, 1) if isinstance(entry, Mapping) else 1 for entry in entries]
    if not all(isinstance(count, int) for count in counts) or sum(counts) == len(entries):
        return ""
    if index >= sum(counts):
        whole = f"{place}[0] stands" if len(entries) == 1 else f"its {len(entries)} entries stand"
        return f": {whole} for {sum(counts)} ({REPEAT}), numbers 0 to {sum(counts) - 1}"
    at, before = 0, 0
    while index >= before + counts[at]:
        before += counts[at]
        at += 1
    pieces = [count for count in (index - before, 1, before + counts[at] - index - 1) if count]
    written = f"{', '.join(map(str, pieces[:-1]))} and {pieces[-1]}"
    return (
        f": number {index} is one of the {counts[at]} that {place}[{at}] stands for ({REPEAT}: {counts[at]}); "
        f"set {place}[{at}] for all of them, or split it into entries with {REPEAT} {written}"
    )


def hint_of_key(key: str, known: Iterable[object], path: str) -> str:
    """Return the path that was probably meant by one with a key that is not known, or nothing."""
    near = nearest(key, map(str, known))
    if near is None:
        return ""
    return f"; did you mean {re.sub(rf'(?<![^.]){re.escape(key)}(?![^.[])', near, path, count=1)}?"


def hint_of_path(tree: Any, parts: Sequence[str | int], path: str) -> str:
    """Return a suggestion for the first part of a path that a tree does not have, or nothing."""
    place = ""
    for part in parts:
        if isinstance(part, int):
            if not isinstance(tree, list):
                return ""
            if part >= len(tree):
                return hint_of_index(tree, part, place)
            tree, place = tree[part], f"{place}[{part}]"
        elif isinstance(tree, Mapping) and part in tree:
            tree, place = tree[part], f"{place}.{part}".lstrip(".")
        elif isinstance(tree, list) and not isinstance(part, int):
            tree = tree[0] if tree else None  # a wildcard: every entry has the same keys or says so itself
            place = f"{place}[{part}]"
        else:
            return hint_of_key(str(part), tree, path) if isinstance(tree, Mapping) else ""
    return ""
