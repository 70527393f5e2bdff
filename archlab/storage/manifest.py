"""A list of a folder's files with their sizes and sums, which shows later whether they are still whole."""

from __future__ import annotations

import json
from pathlib import Path

from archlab.errors import ArchlabError
from archlab.storage.files import sha256_of, write_text

_NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """List every file of a folder in its manifest.json."""
    files = {file.name: {"size": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(folder.iterdir())}
    write_text(folder / _NAME, json.dumps({"files": files}, indent=2))


def integrity_error(folder: Path) -> str | None:
    """Say what is wrong with a folder that has a manifest, or return None where all files are as they were."""
    try:
        files = json.loads((folder / _NAME).read_text())["files"]
        problems = (_problem(folder / name, entry["size"], entry["sha256"]) for name, entry in files.items())
        return next((problem for problem in problems if problem), None)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_NAME} is not a manifest"


def verify(folder: Path) -> None:
    """Raise ArchlabError unless every file that the manifest lists is there and unchanged."""
    problem = integrity_error(folder)
    if problem:
        raise ArchlabError(f"{folder}: {problem}")


def _problem(file: Path, size: int, sha256: str) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    found = file.stat().st_size
    if found != size:
        return f"{file.name} has {found} bytes and not {size}"
    return None if sha256_of(file) == sha256 else f"{file.name} has changed"
