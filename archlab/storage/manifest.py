"""Manifests: kind, sizes and SHA-256 checksums of a directory's files, to detect damage and files of someone else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archlab.config.strict_json import parse_object
from archlab.errors import ArchlabError
from archlab.storage.files import sha256_of, write_text
from archlab.storage.json_values import is_count

NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The kind of a directory, such as `export`, and size and SHA-256 of each file by its name.

    `kind` is empty in directories that archlab 0.1 wrote.
    """

    kind: str = ""
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def write_manifest(folder: Path, kind: str = "", known: Mapping[str, tuple[int, str]] | None = None) -> None:
    """Write manifest.json with every file of a directory; of those that are `known` size and SHA-256 are given."""
    entries = {**{file.name: None for file in folder.iterdir()}, **(known or {})}
    found = {name: entry or _describe(folder / name) for name, entry in sorted(entries.items())}
    files = {name: {"size": size, "sha256": sha256} for name, (size, sha256) in found.items()}
    write_text(folder / NAME, json.dumps({"kind": kind, "files": files}, indent=2))


def _describe(file: Path) -> tuple[int, str]:
    return file.stat().st_size, sha256_of(file)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a directory; raise OSError or ValueError for none, or one that is damaged."""
    try:
        data = parse_object((folder / NAME).read_bytes())
        kind, files = data.get("kind", ""), data["files"]
        if not isinstance(kind, str) or not isinstance(files, dict):
            raise ValueError("no files")
        return Manifest(kind, {_file_name(name): _entry(entry) for name, entry in files.items()})
    except OSError:
        raise
    except (ValueError, KeyError) as error:
        raise ValueError(f"{NAME} is not a manifest") from error


def _file_name(name: str) -> str:
    # A path to elsewhere would make a reader open files that the directory does not hold.
    if not name or Path(name).name != name or "\0" in name:
        raise ValueError("not a file's name")
    return name


def _entry(entry: Any) -> tuple[int, str]:
    if not isinstance(entry, dict) or not is_count(entry.get("size")) or not isinstance(entry.get("sha256"), str):
        raise ValueError("not a size and a checksum")
    return entry["size"], entry["sha256"]


def integrity_error(folder: Path) -> str | None:
    """Return the first mismatch between a directory and its manifest, or None if all files match."""
    try:
        files = read_manifest(folder).files
        problems = (_problem(folder / name, size, sha256) for name, (size, sha256) in files.items())
        return next((problem for problem in problems if problem), None)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    except ValueError:
        return f"{NAME} is not a manifest"


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
