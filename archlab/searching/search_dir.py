"""The directory of a search: its space, stored so that the same command resumes it and another one is refused."""

from __future__ import annotations

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
from archlab.searching.space import Space
from archlab.searching.study import delete_study
from archlab.storage.files import require_empty_dir, write_text
from archlab.storage.locks import lock
from archlab.text import shell_path

_OWN_DIRS = ("trials", "baseline", "best")
_OWN_FILES = ("summary.json", "report.html", "base.yaml", "search.yaml")


@contextmanager
def open_search(space: Space, folder: Path, force: bool) -> Iterator[None]:
    """Start or resume a search; within the block no other worker can start it over.

    Raises ArchlabError if the directory holds something else.
    """
    if not (folder / "search.yaml").is_file():
        _prepare(folder, force)
    elif force:
        _clear(space, folder)
    with lock(folder / ".workers.lock", wait=True, shared=True):
        with lock(folder / ".study.lock", wait=True):
            _require_same(space, folder)
            write_text(folder / "base.yaml", format_yaml(space.base_to_plain()))
            write_text(folder / "search.yaml", format_yaml(space.to_plain()))
        yield


def _prepare(folder: Path, force: bool) -> None:
    """Create the directory, unless another worker has just created it, or was killed while it did."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    own = {".workers.lock", ".study.lock", "base.yaml"}
    foreign = [name for name in names - own if not name.endswith(".archlab-partial")]
    if "search.yaml" not in names and (foreign or not folder.is_dir()):
        require_empty_dir(folder, force, "the search")


def _clear(space: Space, folder: Path) -> None:
    with lock(folder / ".workers.lock", wait=False) as alone:
        if not alone:
            raise ArchlabError(f"{folder}: another process is searching here; stop it first")
        delete_study(space, folder)
        for name in _OWN_DIRS:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in _OWN_FILES:
            (folder / name).unlink(missing_ok=True)


def _require_same(space: Space, folder: Path) -> None:
    """Raise ArchlabError for the first difference from the stored search; trials and choices may be added."""
    if not (folder / "search.yaml").is_file():
        return
    may_grow = space.study.sampler.type != "brute_force"  # brute force enumerates the space, and must not see it change
    for name, plain in (("base.yaml", space.base_to_plain()), ("search.yaml", space.to_plain())):
        old = load_yaml(folder / name)
        # Dumped and loaded again, so that tuples compare equal to lists.
        if difference := first_difference(old, parse_yaml(format_yaml(plain)), partial(_is_equal, may_grow)):
            advice = "name another directory, or start over with --force"
            if old.get("format") is None:
                advice = f"run archlab migrate {shell_path(folder)} if that is only a former name; else {advice}"
            raise ArchlabError(f"{folder}: holds another search: {difference}; {advice}")


def _is_equal(may_grow: bool, path: str, old: Any, new: Any) -> bool:
    has_grown = may_grow and isinstance(old, list) and isinstance(new, list) and all(value in new for value in old)
    ignored = ("format", "description", "study.trials")
    return path in ignored or old == new or (has_grown and path.startswith("vary."))
