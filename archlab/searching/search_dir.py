"""A search's folder: what was asked for when it began, so that the same command goes on and another does not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from archlab.config.diff import first_difference
from archlab.errors import ArchlabError
from archlab.searching.space import Space
from archlab.searching.study import delete_study
from archlab.storage.files import require_empty_dir, write_text
from archlab.storage.locks import lock

_OWN_FOLDERS = ("trials", "baseline", "best")
_OWN_FILES = ("summary.json", "report.html", "base.yaml", "search.yaml")


@contextmanager
def open_search(space: Space, folder: Path, force: bool) -> Iterator[None]:
    """Begin a search, or go on with it; no other worker can begin anew while the block lasts.

    Raises ArchlabError where the folder holds something else.
    """
    if not (folder / "search.yaml").is_file():
        _prepare(folder, force)
    elif force:
        _clear(space, folder)
    with lock(folder / ".workers.lock", wait=True, shared=True):
        with lock(folder / ".study.lock", wait=True):
            _require_same(space, folder)
            write_text(folder / "base.yaml", _dump(space.base_to_plain()))
            write_text(folder / "search.yaml", _dump(space.to_plain()))
        yield


def _prepare(folder: Path, force: bool) -> None:
    """Make the folder, unless another worker has begun, or was killed as it did."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    own = {".workers.lock", ".study.lock", "base.yaml"}
    strange = [name for name in names - own if not name.endswith(".archlab-partial")]
    if "search.yaml" not in names and (strange or not folder.is_dir()):
        require_empty_dir(folder, force, "the search")


def _clear(space: Space, folder: Path) -> None:
    with lock(folder / ".workers.lock", wait=False) as alone:
        if not alone:
            raise ArchlabError(f"{folder}: another process is searching here; stop it first")
        delete_study(space, folder)
        for name in _OWN_FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in _OWN_FILES:
            (folder / name).unlink(missing_ok=True)


def _require_same(space: Space, folder: Path) -> None:
    """Raise ArchlabError for the first difference; more trials, and more choices, are no difference."""
    if not (folder / "search.yaml").is_file():
        return
    may_grow = space.study.sampler.type != "brute_force"  # which counts the choices that are left
    for name, asked in (("base.yaml", space.base_to_plain()), ("search.yaml", space.to_plain())):
        old = yaml.safe_load((folder / name).read_text())
        if where := first_difference(old, yaml.safe_load(_dump(asked)), partial(_is_equal, may_grow)):
            way_out = "name another folder, or begin anew with --force"
            if old.get("format") is None:
                way_out = f"run archlab migrate {folder} if that is only another name; else {way_out}"
            raise ArchlabError(f"{folder}: holds another search: {where}; {way_out}")


def _is_equal(may_grow: bool, path: str, old: Any, new: Any) -> bool:
    grown = may_grow and isinstance(old, list) and isinstance(new, list) and all(value in new for value in old)
    return path in ("format", "description", "study.trials") or old == new or (grown and path.startswith("vary."))


def _dump(plain: Any) -> str:
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
