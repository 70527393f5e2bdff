"""JSON objects read strictly: a key that appears twice is an error, where the standard library keeps the last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from archlab.errors import ArchlabError, why_unreadable


def read_object(file: Path, what: str = "") -> dict[str, Any]:
    """Return the JSON object of a file, which is `what`; raise ArchlabError naming the file if it holds none."""
    try:
        return parse_object(file.read_bytes())
    except (OSError, ValueError) as error:
        problem = f"is not {what}" if what else "cannot be read"
        raise ArchlabError(f"{file}: {problem}: {why_unreadable(error)}") from error


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object of a UTF-8 text; raise ValueError for another text, or a key that appears twice."""
    try:
        data = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"the key {key!r} appears twice")
        data[key] = value
    return data
