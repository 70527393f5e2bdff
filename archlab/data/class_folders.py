"""Class folders: a directory with one folder of files for each class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from archlab.data.folders import FoundFile, file_stamp, require_distinct
from archlab.data.labeled_files import LabeledFile
from archlab.data.split_names import assign_splits, find_split_names, is_split_name
from archlab.data.splits import SPLITS, hash_fraction
from archlab.errors import ArchlabError


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
    with os.scandir(folder) as entries:
        files = sorted((entry.name, entry.is_symlink()) for entry in entries if not entry.name.startswith("."))
    for file, _ in files:
        if not file.lower().endswith(tuple(suffixes)):
            raise ArchlabError(f"{folder / file}: is not a {', '.join(suffixes)} file")
    if not files:
        raise ArchlabError(f"{folder}: holds no file of class {name!r}")
    linked = folder.is_symlink()
    # Names use / on every system: splits and checksums are computed from them.
    return [LabeledFile(str(folder / file), f"{name}/{file}", label, linked or link) for file, link in files]


def find_split_folders(root: Path) -> dict[str, Path]:
    """Return the folders that are named like splits, or `root` as the train split where its folders are classes.

    Raises ArchlabError naming folders that are no split beside others that are, and two of one split.
    """
    names = list_classes(root)
    # A class may be called `bullet_train`, but a folder `test` beside classes is a test split among training data.
    if not any(map(is_split_name, names)) and not all(map(find_split_names, names)):
        return {"train": root}
    found: dict[str, Path] = {}
    for name, split in assign_splits(names, root, "splits and classes cannot be mixed").items():
        other = found.setdefault(split, root / name)
        if other != root / name:
            raise ArchlabError(f"{root}: {other.name} and {name} are both the {split} split")
    return found


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
    parents = [folder.parent for folder in folders.values() if len(folders) > 1]
    for folder in dict.fromkeys([*folders.values(), *parents]):
        _require_no_files_beside(folder, suffixes)
    train = list_files(folders["train"], classes, suffixes)
    require_train_names(folders["train"], train)
    splits = split_by_hash(train, fractions)
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


def _require_no_files_beside(folder: Path, suffixes: Sequence[str]) -> None:
    """Raise ArchlabError naming a file that is beside the folders of classes, where nothing reads it."""
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(tuple(suffixes)) and not name.startswith(".") and (folder / name).is_file():
            raise ArchlabError(f"{folder / name}: is in no folder of a class")


def require_train_names(root: Path, files: Iterable[LabeledFile]) -> None:
    """Raise ArchlabError naming a file to train on whose name, behind that of its class, is of another split."""
    for file in files:
        name, _, own = file.name.partition("/")
        held_out = find_split_names(own.removeprefix(name)) - {"train"}
        if held_out:
            raise ArchlabError(f"{root / file.name}: is of the {min(held_out)} split by name, among files to train on")


def require_complete(root: Path, splits: Mapping[str, Sequence[LabeledFile]], classes: Sequence[str]) -> None:
    """Raise ArchlabError if a split is empty, the train split lacks a class, or a link reaches a file twice."""
    for split, files in splits.items():
        if not files:
            raise ArchlabError(f"{root}: the {split} split is empty: there are too few files")
    labels = {file.label for file in splits["train"]}
    for label, name in enumerate(classes):
        if label not in labels:
            raise ArchlabError(f"{root}: the train split has no file of class {name!r}: there are too few")
    everything = [file for files in splits.values() for file in files]
    if any(file.is_link for file in everything):
        require_distinct(FoundFile(file.name, Path(file.path), file_stamp(file.path)) for file in everything)
