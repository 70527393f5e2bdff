"""Class folders: a directory with one folder of files for each class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archlab.data.splits import SPLITS, hash_fraction
from archlab.errors import ArchlabError


@dataclass(frozen=True)
class LabeledFile:
    """A file, its name relative to the root of the class folders, and the index of its class."""

    path: str
    name: str
    label: int


def list_classes(root: Path) -> list[str]:
    """Return the names of the class folders, sorted, hidden ones left out; raise ArchlabError if there are none."""
    if not root.is_dir():
        raise ArchlabError(f"{root}: no such folder")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ArchlabError(f"{root}: holds no folders, one for each class")
    return names


def list_files(root: Path, classes: Sequence[str], suffixes: Sequence[str]) -> list[LabeledFile]:
    """Return the files of all classes, sorted within each class, hidden ones left out.

    Raises ArchlabError naming a class without a folder or without files, and a file with another suffix.
    """
    return [file for label, name in enumerate(classes) for file in _list_class(root, name, label, suffixes)]


def _list_class(root: Path, name: str, label: int, suffixes: Sequence[str]) -> list[LabeledFile]:
    folder = root / name
    if not folder.is_dir():
        raise ArchlabError(f"{folder}: no such folder, one for each class")
    files = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    for file in files:
        if not file.lower().endswith(tuple(suffixes)):
            raise ArchlabError(f"{folder / file}: is not a {', '.join(suffixes)} file")
    if not files:
        raise ArchlabError(f"{folder}: holds no file of class {name!r}")
    # Names use / on every system: splits and checksums are computed from them.
    return [LabeledFile(os.path.join(folder, file), f"{name}/{file}", label) for file in files]


def list_splits(
    folders: Mapping[str, Path], num_classes: int, fraction: float, suffixes: Sequence[str]
) -> dict[str, list[LabeledFile]]:
    """List the files of every split; a split without a folder is a `fraction` of the train files.

    Raises ArchlabError naming a folder whose classes are not those of train, or not `num_classes`.
    """
    classes = list_classes(folders["train"])
    if len(classes) != num_classes:
        raise ArchlabError(f"{folders['train']}: holds {len(classes)} classes, not num_classes {num_classes}")
    for folder in folders.values():
        mismatched = sorted(set(list_classes(folder)) ^ set(classes))
        if mismatched:
            raise ArchlabError(f"{folder}: its classes are not those of {folders['train']}: {mismatched[0]!r}")
    fractions = {split: fraction for split in ("validation", "test") if split not in folders}
    splits = split_by_hash(list_files(folders["train"], classes, suffixes), fractions)
    splits |= {split: list_files(folders[split], classes, suffixes) for split in folders if split != "train"}
    require_complete(folders["train"], splits, classes)
    return splits


def split_by_hash(files: Sequence[LabeledFile], fractions: Mapping[str, float]) -> dict[str, list[LabeledFile]]:
    """Split files by the SHA-256 of their names into the given fractions; the remainder is the train split."""
    splits: dict[str, list[LabeledFile]] = {split: [] for split in SPLITS}
    for file in files:
        splits[_choose_split(hash_fraction(file.name), fractions)].append(file)
    return splits


def _choose_split(position: float, fractions: Mapping[str, float]) -> str:
    for split, fraction in fractions.items():
        if position < fraction:
            return split
        position -= fraction
    return "train"


def require_complete(root: Path, splits: Mapping[str, Sequence[LabeledFile]], classes: Sequence[str]) -> None:
    """Raise ArchlabError if a split is empty or the train split lacks a class."""
    for split, files in splits.items():
        if not files:
            raise ArchlabError(f"{root}: the {split} split is empty: there are too few files")
    labels = {file.label for file in splits["train"]}
    for label, name in enumerate(classes):
        if label not in labels:
            raise ArchlabError(f"{root}: the train split has no file of class {name!r}: there are too few")


def hash_names(splits: Mapping[str, Sequence[LabeledFile]]) -> str:
    """Return the SHA-256 of the split and name of every file, not of the files' content."""
    digest = hashlib.sha256()
    for split, files in splits.items():
        for file in files:
            digest.update(os.fsencode(f"{split}/{file.name}") + b"\0")
    return digest.hexdigest()
