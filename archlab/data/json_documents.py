"""Documents of JSON: one object per line, or one array or object per file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TypeAlias

from archlab.data.file_types import BOM, require_utf8, split_lines
from archlab.errors import ArchlabError, did_you_mean, one_line

_Row: TypeAlias = tuple[str, str]  # its name within the file, and its text


def read_json_lines(name: str, lines: Iterable[bytes], field: str, location: str) -> Iterator[tuple[str, bytes]]:
    """Yield the `field` of the object in each line; blank lines are skipped.

    Raises ArchlabError naming the line of anything else.
    """
    for number, (line, is_last) in enumerate(_mark_last(lines), 1):
        place = f"{location}:{number}"
        if line.strip(b" \t\r"):
            hint = "the file is truncated" if is_last else "a line holds one object"
            entry = _parse(line, place, hint)
            yield f"{name}:{number}", encode_text(_get_field(entry, field, place), field, place)


def _mark_last(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each line, and whether it is the last one."""
    following = iter(lines)
    line = next(following, None)
    while line is not None:
        after = next(following, None)
        yield line, after is None
        line = after


def read_json(name: str, data: bytes, field: str, location: str) -> Iterator[tuple[str, bytes]]:
    """Yield the documents of a JSON file, which often holds JSON lines under this name.

    An array holds texts or objects with a `field`; an object is one document, or holds one array, or a document under
    each of its keys. Raises ArchlabError naming the document that is none.
    """
    data = data.removeprefix(BOM)
    if _is_json_lines(data):
        yield from read_json_lines(name, split_lines(data), field, location)
        return
    for row, text in _list_rows(_parse(data, location, "the file is damaged or truncated"), field, location):
        yield f"{name}:{row}", encode_text(text, field, f"{location}, document {row}")


def _is_json_lines(data: bytes) -> bool:
    """Return whether the first line is a whole object; a file that is one object in one line reads the same."""
    line, _, rest = data.strip().partition(b"\n")
    try:
        return bool(rest) and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _list_rows(value: Any, field: str, location: str) -> Iterable[_Row]:
    if isinstance(value, dict) and field not in value and len(value) == 1:
        only = next(iter(value.values()))
        value = only if isinstance(only, list) else value
    if isinstance(value, dict) and field in value:
        texts = value[field] if isinstance(value[field], list) else [value[field]]
        return ((str(row), text) for row, text in enumerate(texts))
    if isinstance(value, dict) and any(isinstance(entry, dict) for entry in value.values()):
        # Numbered: keys may hold halves of surrogate pairs, which no name of a document can.
        value = list(value.values())
    if isinstance(value, list):
        return ((str(row), _text_of(entry, field, f"{location}, document {row}")) for row, entry in enumerate(value))
    return [("0", _get_field(value, field, location))]


def _text_of(entry: Any, field: str, location: str) -> Any:
    return entry if isinstance(entry, str) else _get_field(entry, field, location)


def _parse(line: bytes, location: str, hint: str) -> Any:
    require_utf8(line, location)
    try:
        return json.loads(line, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ArchlabError(f"{location}: is nested too deeply") from error
    except ValueError as error:
        hint = hint if isinstance(error, json.JSONDecodeError) else "JSON of this kind is not read"
        raise ArchlabError(f"{location}: is not JSON: {one_line(error)}; {hint}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice in one object")
    return entries


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _get_field(entry: Any, field: str, location: str) -> Any:
    if not isinstance(entry, dict):
        raise ArchlabError(f"{location}: is not a JSON object but {type(entry).__name__}")
    if field not in entry:
        raise ArchlabError(f"{location}: no field {field!r}{did_you_mean(field, entry)}")
    return entry[field]


def encode_text(value: Any, field: str, location: str) -> bytes:
    """Return a text as UTF-8; raise ArchlabError naming one that is not a string, or no Unicode text."""
    if not isinstance(value, str):
        raise ArchlabError(f"{location}: the field {field!r} is not a string but {type(value).__name__}")
    try:
        text = value.encode()
    except UnicodeEncodeError as error:
        code = f"\\u{ord(value[error.start]):04x}"
        raise ArchlabError(
            f"{location}: the field {field!r} holds half of a surrogate pair, {code} at {error.start:,}"
        ) from error
    if b"\0" in text:
        raise ArchlabError(
            f"{location}: the field {field!r} holds byte 0 at {text.index(0):,}, which separates documents"
        )
    return text
