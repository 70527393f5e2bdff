"""Files sorted into folders, one for each class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archlab.data.splits import SPLITS, hash_fraction
from archlab.errors import ArchlabError


@dataclass(frozen=True)
class Labelled:
    """A file, its name below the folder of all classes, and the number of its class."""

    path: str
    name: str
    label: int


def class_names(root: Path) -> list[str]:
    """Return the folders below a folder, hidden ones apart, in order; raise ArchlabError where there are none."""
    if not root.is_dir():
        raise ArchlabError(f"{root}: no such folder")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ArchlabError(f"{root}: holds no folders, one for each class")
    return names


def class_files(root: Path, classes: Sequence[str], suffixes: Sequence[str]) -> list[Labelled]:
    """Return the files of classes in order, hidden ones apart.

    Raises ArchlabError naming a class without a folder or without files, and a file with another suffix.
    """
    return [file for label, name in enumerate(classes) for file in _files(root, name, label, suffixes)]


def _files(root: Path, name: str, label: int, suffixes: Sequence[str]) -> list[Labelled]:
    folder = root / name
    if not folder.is_dir():
        raise ArchlabError(f"{folder}: no such folder, one for each class")
    found = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    for file in found:
        if not file.lower().endswith(tuple(suffixes)):
            raise ArchlabError(f"{folder / file}: is none of {', '.join(suffixes)}")
    if not found:
        raise ArchlabError(f"{folder}: holds no file of class {name!r}")
    return [Labelled(os.path.join(folder, file), f"{name}/{file}", label) for file in found]


def by_hash(files: Sequence[Labelled], shares: Mapping[str, float]) -> dict[str, list[Labelled]]:
    """Split files by the SHA-256 of their names: each split that has a share gets it, and train the rest."""
    parts: dict[str, list[Labelled]] = {split: [] for split in SPLITS}
    for file in files:
        parts[_part(hash_fraction(file.name), shares)].append(file)
    return parts


def _part(place: float, shares: Mapping[str, float]) -> str:
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"


def require_filled(root: Path, parts: Mapping[str, Sequence[Labelled]], classes: Sequence[str]) -> None:
    """Raise ArchlabError where a split is empty, or the train split lacks a class."""
    for split, files in parts.items():
        if not files:
            raise ArchlabError(f"{root}: the {split} split is empty: there are too few files")
    learned = {file.label for file in parts["train"]}
    for label, name in enumerate(classes):
        if label not in learned:
            raise ArchlabError(f"{root}: the train split has no file of class {name!r}: there are too few")


def sha256(parts: Mapping[str, Sequence[Labelled]]) -> str:
    """Return the SHA-256 of which file stands where."""
    total = hashlib.sha256()
    for split, files in parts.items():
        for file in files:
            total.update(os.fsencode(f"{split}/{file.name}") + b"\0")
    return total.hexdigest()
