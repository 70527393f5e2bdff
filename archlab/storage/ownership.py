"""Which files of a directory archlab wrote: these alone are replaced or deleted, and no link is ever followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

from archlab.errors import ArchlabError
from archlab.storage.manifest import NAME, read_manifest
from archlab.storage.stored_tensors import is_part_file

# A check returns the first path at or below a path that archlab did not write, or None.
Check: TypeAlias = Callable[[Path], Path | None]
Layout: TypeAlias = Mapping[str, Check]
REPORT_MARK = '<meta name="generator" content="archlab">'
_FORMER_REPORT_MARK = b"<style>\n:root { --ink: #24292e; --soft: #6a737d;"  # of reports that archlab 0.1 wrote
_HEAD_BYTES = 65536
_TOKEN_FILES = ("tokens.json", "tokenizer.json", "tokenizer_config.json", "vocabulary.json")
_CHECKPOINT_FILES = {
    *("model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"),
    *("experiment.yaml", "provenance.json", *_TOKEN_FILES, NAME),
}


def own_file(path: Path) -> Path | None:
    """Check a file that has a name of archlab's: it is neither a link nor a directory."""
    return None if path.is_file() and not path.is_symlink() else path


def report_file(path: Path) -> Path | None:
    """Check a report: one that a user wrote under this name is the user's."""
    if own_file(path) is not None:
        return path
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return None if any(mark in head for mark in (REPORT_MARK.encode(), _FORMER_REPORT_MARK)) else path


def partial_path(path: Path) -> Path | None:
    """Check the leftovers of a killed writer, a file or a directory."""
    return path if path.is_symlink() else None


def listed_dir(folder: Path) -> Path | None:
    """Check a directory of files that its manifest lists, such as a checkpoint."""
    if folder.is_symlink() or not folder.is_dir():
        return folder
    try:
        names = {*read_manifest(folder).files, NAME}
    except (OSError, ValueError):  # a damaged checkpoint is replaced like any other
        names = _CHECKPOINT_FILES | {file.name for file in folder.iterdir() if is_part_file(file.name)}
    layout: Layout = {**dict.fromkeys(names, own_file), "__pycache__": _compiled}
    return first_foreign(folder, layout, exact=True)


def require_listed(folder: Path) -> None:
    """Raise ArchlabError for a directory with anything that its manifest does not list."""
    foreign = listed_dir(folder)
    if foreign is not None:
        raise ArchlabError(f"{foreign}: was not written by archlab; move it away, or name another directory")


def dir_of(layout: Layout) -> Check:
    """Return the check of a directory whose entries a layout names."""

    def check(folder: Path) -> Path | None:
        return folder if folder.is_symlink() or not folder.is_dir() else first_foreign(folder, layout)

    return check


def first_foreign(folder: Path, layout: Layout, *, exact: bool = False) -> Path | None:
    """Return the first path below a directory that no pattern of the layout matches, or None.

    `exact` layouts have names where others have patterns.
    """
    for path in sorted(folder.iterdir()):
        matches = (
            check for name, check in layout.items() if path.name == name or (not exact and fnmatchcase(path.name, name))
        )
        check = next(matches, None)
        foreign = path if check is None else check(path)
        if foreign is not None:
            return foreign
    return None


def first_link(folder: Path, layout: Layout) -> Path | None:
    """Return the first entry of a directory that has a name of the layout and is a link, or None."""
    links = (path for path in sorted(folder.iterdir()) if path.is_symlink())
    return next((path for path in links if any(fnmatchcase(path.name, name) for name in layout)), None)


_compiled = dir_of({"*.pyc": own_file})  # Python's caches beside imported modules

RUN: Layout = {
    **dict.fromkeys(("run.json", "experiment.yaml", "metrics.jsonl", "result.json", ".run.lock"), own_file),
    **dict.fromkeys(("lock", "stopped", "output.log"), own_file),  # of the search that a run is a trial of
    "tensorboard": dir_of({"events.out.tfevents.*": own_file}),
    "profile": dir_of({"updates_*.json.gz": own_file, ".*.archlab-*": partial_path}),
    "checkpoints": dir_of({"step_[0-9]*": listed_dir, ".*.archlab-partial": partial_path}),
    "final": listed_dir,
    "evaluations": dir_of({".*.archlab-*": partial_path, "*": listed_dir}),
    "tokens": dir_of({**dict.fromkeys(_TOKEN_FILES, own_file), ".*.archlab-*": partial_path}),
    "report.html": report_file,
    ".*.archlab-*": partial_path,
}
