"""Manifests: the sizes and SHA-256 checksums of a directory's files, to detect damage."""

from __future__ import annotations

import json
from pathlib import Path

from archlab.errors import ArchlabError
from archlab.storage.files import sha256_of, write_text

_NAME = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Write manifest.json with every file of a directory."""
    files = {file.name: {"size": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(folder.iterdir())}
    write_text(folder / _NAME, json.dumps({"files": files}, indent=2))


def integrity_error(folder: Path) -> str | None:
    """Return the first mismatch between a directory and its manifest, or None if all files match."""
    try:
        files = json.loads((folder / _NAME).read_text(encoding="utf-8"))["files"]
        problems = (_problem(folder / name, entry["size"], entry["sha256"]) for name, entry in files.items())
        return next((problem for problem in problems if problem), None)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_NAME} is not a manifest"


def verify(folder: Path) -> None:
    """Raise ArchlabError unless every file of the manifest exists and matches it."""
    problem = integrity_error(folder)
    if problem:
        raise ArchlabError(f"{folder}: {problem}")


def _problem(file: Path, size: int, sha256: str) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    actual = file.stat().st_size  # first, because it is free: most damage is a truncated file
    if actual != size:
        return f"{file.name} has {actual} bytes and not {size}"
    return None if sha256_of(file) == sha256 else f"{file.name} has changed"
