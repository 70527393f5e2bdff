# mypy: ignore-errors
"""Code shared by both modules that call programs: how inputs are cut into calls, and that the files are as written.

Each takes these functions along; they need the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

FORMAT = 1


def read_facts(file: Path) -> dict:
    """Return the metadata of the programs; raise RuntimeError for a later format."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        missing = sorted({"format", "tokens", "state", "files"} - facts.keys())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise RuntimeError(f"{file}: cannot be read: {error}") from error
    if missing:
        raise RuntimeError(f"{file}: is damaged: it has no {missing[0]}")
    if facts["format"] != FORMAT:
        raise RuntimeError(f"{file}: format {facts['format']} is not {FORMAT}, which this module reads")
    return facts


def check_files(folder: Path, files: dict) -> None:
    """Raise RuntimeError naming a file that is missing, or not as it was written."""
    for name, sha256 in files.items():
        if Path(name).name != name or not (folder / name).is_file():
            raise RuntimeError(f"{folder}: has no file {name!r}")
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise RuntimeError(f"{folder / name}: has changed since it was written")


def pieces(tokens: list, length: int) -> list:
    """Return the lengths of calls: of about one size between the shortest and the longest, or else 1."""
    shortest, longest = tokens
    num = 1 if longest is None else -(-length // longest)
    size, rest = divmod(length, num) if num else (0, 0)
    if size >= shortest:
        return [size + 1] * rest + [size] * (num - rest)
    longer = [longest] * (length // longest) if longest is not None else []
    return longer + [1] * (length - sum(longer))
