"""Damaged and hostile versions of valid files, for property tests: each is refused by name, or read right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

_ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**63, 10**400, 0.5, float("nan"), float("inf"), -1e308),
    *("", "x", "\ud800", "a" * 300, "../up", "\0", [], {}, [[]], {"a": {}}),
]
_WHOLE = [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"\0" * 64, b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000]


def damaged_json(valid: bytes) -> st.SearchStrategy[bytes]:
    """Draw a JSON file with one value, key or byte changed, or with other content."""
    data = json.loads(valid)
    places = list(_places(data, ()))
    changed = st.builds(lambda place, value: _put(data, place, value), st.sampled_from(places), st.sampled_from(_ODD))
    removed = st.sampled_from([place for place in places if place]).map(lambda place: _remove(data, place))
    added = st.builds(lambda key, value: {**data, key: value}, st.text(), st.sampled_from(_ODD))
    trees = st.one_of(changed, removed, added).map(lambda tree: json.dumps(tree).encode())
    return st.one_of(trees, damaged_bytes(valid), st.sampled_from(_WHOLE))


def damaged_bytes(valid: bytes) -> st.SearchStrategy[bytes]:
    """Draw a file that is cut off, or has one byte changed, doubled or removed."""
    place = st.integers(0, max(0, len(valid) - 1))
    return st.one_of(
        place.map(lambda end: valid[:end]),
        st.builds(lambda at, byte: valid[:at] + bytes([byte]) + valid[at + 1 :], place, st.integers(0, 255)),
        place.map(lambda at: valid[:at] + valid[at : at + 1] * 2 + valid[at + 1 :]),
        place.map(lambda at: valid[:at] + valid[at + 1 :]),
    )


def _places(data: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield place
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield from _places(data[key], (*place, key))


def _put(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[place[0]] = _put(data[place[0]], place[1:], value)
    return copy


def _remove(data: Any, place: tuple[Any, ...]) -> Any:
    copy = dict(data) if isinstance(data, dict) else list(data)
    if len(place) == 1:
        del copy[place[0]]
    else:
        copy[place[0]] = _remove(data[place[0]], place[1:])
    return copy
