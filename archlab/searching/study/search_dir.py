"""The directory of a search: its space, stored so that the same command resumes it and another one is refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from archlab.config.diff import first_difference
from archlab.config.yaml_files import load_yaml
from archlab.config.yaml_reader import parse_yaml
from archlab.config.yaml_writer import format_yaml
from archlab.errors import ArchlabError
from archlab.searching.space.search_space import Space
from archlab.searching.space.storage_url import JOURNAL
from archlab.searching.study import identity, workers
from archlab.searching.study.identity import may_grow, new_identity, read_identity, require_unchanged
from archlab.searching.study.ladder_layout import LADDER_DIRS, LADDER_LAYOUT
from archlab.searching.study.study_storage import delete_study
from archlab.storage.files import write_text
from archlab.storage.locks import lock
from archlab.storage.ownership import (
    RUN,
    Layout,
    dir_of,
    first_foreign,
    first_link,
    listed_dir,
    own_file,
    partial_path,
    report_file,
)
from archlab.storage.targets import is_occupied, require_dir
from archlab.text import shell_path

SPACE = "search.yaml"
STUDY_LOCK = ".study.lock"  # held while claiming, enqueueing or interrupting trials
JOBS = "jobs"  # of workers that a launcher has placed: their output, and the launcher's own files
_OWN_DIRS = ("trials", "baseline", "best", workers.DIR, JOBS, *LADDER_DIRS)
# search.yaml and identity.json last: a directory that is cleared in part is still known as a search's.
_OWN_FILES = ("summary.json", "ladder.json", "report.html", "base.yaml", SPACE, identity.NAME)
_OF_STUDY = ("trials", "best", "summary.json", "report.html")  # what has no meaning without the study
_RUNS: Layout = {**RUN, "runs": dir_of({"[0-9]*": dir_of(RUN)})}  # of a trial that has several
_TRIAL: Layout = {**_RUNS, "tasks": dir_of({"[A-Za-z0-9]*": dir_of(_RUNS)})}
_LAYOUT: Layout = {
    **dict.fromkeys((*_OWN_FILES, "study.db*", "study.journal*", ".*.lock"), own_file),
    "trials": dir_of({"[0-9]*": dir_of(_TRIAL)}),
    "baseline": dir_of(_TRIAL),
    "best": listed_dir,
    workers.DIR: dir_of({**dict.fromkeys(("*.json", "*.lock", "*.lost"), own_file), ".*.archlab-*": partial_path}),
    JOBS: dir_of({"[0-9]*": dir_of({"std*.log": own_file, "slurm": dir_of({"*": own_file})})}),
    **LADDER_LAYOUT,
    "report.html": report_file,
    "put_aside": lambda folder: None,  # stays
    ".*.archlab-*": partial_path,
}
_logger = logging.getLogger(__name__)


@contextmanager
def open_search(space: Space, folder: Path, force: bool) -> Iterator[None]:
    """Start or resume a search; within the block no other worker can start it over.

    Raises ArchlabError if the directory holds something else, or another search's files.
    """
    if not (folder / SPACE).is_file():
        _prepare(folder)
    elif force:
        _clear(folder)
    elif link := first_link(folder, _LAYOUT):
        raise ArchlabError(f"{link}: is a link, which is not followed to be replaced; name another directory")
    with lock(folder / ".workers.lock", wait=False) as alone:
        if alone:
            _require_same(space, folder)
            if not space.is_ladder:  # which has no study
                _put_aside_without_study(folder)
    with lock(folder / ".workers.lock", wait=True, shared=True):
        with lock(folder / STUDY_LOCK, wait=True):
            _require_same(space, folder)
            _identify(space, folder)
            write_text(folder / "base.yaml", format_yaml(space.base_to_plain()))
            write_text(folder / SPACE, format_yaml(space.to_plain()))
        yield


def _prepare(folder: Path) -> None:
    """Create the directory, unless another worker has just created it, or was killed while it did."""
    require_dir(folder)
    names = {path.name for path in folder.iterdir()} if is_occupied(folder) else set()
    own = {".workers.lock", STUDY_LOCK, identity.NAME}
    own |= {"base.yaml"} if own & names else set()  # alone it is a user's
    foreign = sorted(name for name in names - own if not name.endswith(".archlab-partial"))
    if SPACE in names or not foreign:
        return
    if identity.NAME in names:  # left by a start-over that was killed
        _clear(folder)
        return
    # Also if forced: the directory is not a search, so that archlab may not overwrite its files.
    raise ArchlabError(f"{folder}: is not empty and no search: it holds {foreign[0]!r}; name another directory")


def _clear(folder: Path) -> None:
    if folder.is_symlink():
        raise ArchlabError(f"{folder}: is a link; to start over its target, name {folder.resolve()}")
    if foreign := first_foreign(folder, _LAYOUT):
        raise ArchlabError(f"{foreign}: was not written by archlab; move it away, or name another directory")
    with lock(folder / ".workers.lock", wait=False) as alone:
        if not alone:
            raise ArchlabError(f"{folder}: another process is searching here; stop it first")
        delete_study(folder, _stored_storage(folder))
        for name in (*_OWN_DIRS, *_OWN_FILES):
            _remove(folder / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:  # a link is removed, and its target is left alone
        path.unlink(missing_ok=True)


def _identify(space: Space, folder: Path) -> None:
    """Write the identity of a search that begins, or compare the one that is stored.

    A search of an earlier version has none until its study has been opened.
    """
    stored = read_identity(folder)
    if not (folder / SPACE).is_file():
        new_identity(space).write(folder)
    elif stored is not None:
        require_unchanged(stored, space, folder)


def _put_aside_without_study(folder: Path) -> None:
    """Put the trials of a search aside whose study.db or study.journal was deleted: a new study counts from 0."""
    if not (folder / SPACE).is_file():
        return
    file = {None: "study.db", JOURNAL: "study.journal"}.get(_stored_storage(folder))
    if file is None or (folder / file).exists():
        return
    orphans = [path for path in (*(folder / name for name in _OF_STUDY), *folder.glob(f"{file}-*")) if path.exists()]
    if not orphans:
        return
    aside = folder / "put_aside"
    place = aside / f"{len(list(aside.glob('*'))) + 1}" if aside.is_dir() else aside / "1"
    place.mkdir(parents=True)
    for path in orphans:
        path.rename(place / path.name)
    _logger.warning("%s: is missing; its trials were moved to %s, and the search begins again", folder / file, place)


def _stored_storage(folder: Path) -> str | None:
    """Return the storage in a directory's search.yaml, None for study.db."""
    file = folder / SPACE
    data = load_yaml(file) if file.is_file() else {}
    storage = (data.get("study") or {}).get("storage")
    return None if storage is None else str(storage)


def _require_same(space: Space, folder: Path) -> None:
    """Raise ArchlabError for the first difference from the stored search; trials and choices may be added."""
    if not (folder / SPACE).is_file():
        return
    for name, plain in (("base.yaml", space.base_to_plain()), (SPACE, space.to_plain())):
        old = load_yaml(folder / name)
        # Dumped and loaded again, so that tuples compare equal to lists.
        if difference := first_difference(old, parse_yaml(format_yaml(plain)), partial(_is_equal, may_grow(space))):
            advice = "name another directory, or start over with --force"
            if old.get("format") is None:
                advice = f"run archlab migrate {shell_path(folder)} if that is only a former name; else {advice}"
            raise ArchlabError(f"{folder}: holds another search: {difference}; {advice}")


def _is_equal(can_grow: bool, path: str, old: Any, new: Any) -> bool:
    has_grown = can_grow and isinstance(old, list) and isinstance(new, list) and all(value in new for value in old)
    # A database may move, and have another user or password: the study in it is known by the search's UUID.
    has_moved = path == "study.storage" and old is not None and new is not None
    ignored = ("format", "description", "study.trials", "study.keep", "study.budget", "study.time_limit")
    # A list within a letter's layer is a knob's value, and not choices.
    is_choices = path.startswith("vary.") and ".pattern.of." not in path and ".pattern.layer." not in path
    return path in ignored or old == new or has_moved or (has_grown and is_choices)
