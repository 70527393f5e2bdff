"""The identity of a search: a UUID that its directory, study, trials, best model and summary share.

Names and trial numbers do not distinguish searches: another search's files have the same ones.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from archlab.config import renames
from archlab.config.diff import first_difference
from archlab.config.strict_json import read_object
from archlab.data.task import Task
from archlab.errors import ArchlabError, one_line
from archlab.searching.space.search_space import Space
from archlab.storage.files import write_text
from archlab.training.data_identity import WHEREABOUTS

NAME = "identity.json"
LOCAL_STUDY = "search"  # the study's name where its database is in the search's directory, and holds no other


@dataclass(frozen=True)
class SearchIdentity:
    """The identity of a search, stored in its directory.

    - `search`: the UUID.
    - `study`: the name of the study in its storage.
    - `format`: of the YAML that `base` and `space` were made from.
    - `base`, `space`: SHA-256 of the base experiment, and of the part of the space that must not change.
    - `data`: the task's description of its data, with sizes and checksums.
    """

    search: str
    study: str
    format: int
    base: str
    space: str
    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raise TypeError for values of other types, as in a damaged file."""
        texts = (self.search, self.study, self.base, self.space)
        if not all(isinstance(text, str) and text for text in texts) or not isinstance(self.data, Mapping):
            raise TypeError("a value is missing or of another type")

    def write(self, folder: Path) -> None:
        """Write identity.json into a search's directory."""
        write_text(folder / NAME, json.dumps(asdict(self), indent=2))


def new_identity(space: Space, search: str = "", study: str = "") -> SearchIdentity:
    """Return the identity of a search that begins, or of one whose earlier version had no UUID."""
    search = search or uuid.uuid4().hex
    study = study or (f"archlab-{search}" if space.study.storage else LOCAL_STUDY)
    base = _digest(_without(space.base_to_plain(), "format", "description"))
    return SearchIdentity(
        search, study, renames.current().format, base, _digest(_fixed_part(space)), _describe_data(space)
    )


def read_identity(folder: Path) -> SearchIdentity | None:
    """Return the identity in a search's directory, or None if an earlier version of archlab began the search.

    Raises ArchlabError for a file that is not one.
    """
    file = folder / NAME
    try:
        return SearchIdentity(**read_object(file, "the identity of a search")) if file.is_file() else None
    except TypeError as error:
        raise ArchlabError(f"{file}: is not the identity of a search: {one_line(error)}") from error


def require_unchanged(identity: SearchIdentity, space: Space, folder: Path) -> None:
    """Raise ArchlabError if base experiment, space or data are not those that the search began with."""
    now = new_identity(space, identity.search, identity.study)
    if identity.format == now.format:  # a migrated search has other names for the same things
        for name, file in (("base", "base.yaml"), ("space", "search.yaml")):
            if getattr(identity, name) != getattr(now, name):
                raise ArchlabError(
                    f"{folder / file}: has been changed since the search began, and so has {space.source}"
                )
    if difference := data_difference(*(_without(data, *WHEREABOUTS) for data in (identity.data, now.data))):
        problem = "its data have changed since the search began"
        raise ArchlabError(f"{folder}: {problem}: {difference}; name another directory, or start over with --force")


def data_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the first difference of two descriptions, among their common keys."""
    return first_difference(old, new, lambda _, one, other: one == other or one is None or other is None)


def require_same_search(found: str, identity: SearchIdentity | None, what: Path | str) -> None:
    """Raise ArchlabError if a part of a search names another search; parts of earlier versions name none."""
    if identity and found and found != identity.search:
        raise ArchlabError(
            f"{what}: belongs to another search ({found[:8]}) than its directory ({identity.search[:8]}); move it away"
        )


def may_grow(space: Space) -> bool:
    """Return whether choices may be added to a search: brute force enumerates the space, and must not see it change."""
    return space.study.sampler.type != "brute_force"


def _fixed_part(space: Space) -> dict[str, Any]:
    plain = space.to_plain()
    changeable = ("format", "base", "description", *(("vary",) if may_grow(space) else ()))
    return {
        **_without(plain, *changeable),
        "study": _without(plain["study"], "trials", "storage", "keep", "budget", "time_limit"),
    }


def _without(plain: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key not in keys}


def _describe_data(space: Space) -> dict[str, Any]:
    task: Task = space.base.resolve().task.factory()()
    description: dict[str, Any] = json.loads(json.dumps(task.describe()))
    return description


def _digest(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
