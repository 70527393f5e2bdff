"""Where the study of a search is stored: a file in its directory, or a database; found by the search's UUID."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from archlab.errors import ArchlabError
from archlab.searching.space.search_space import Space
from archlab.searching.space.storage_url import (
    JOURNAL,
    connection_url,
    is_journal,
    journal_file,
    sqlite_url,
    take_password,
)
from archlab.searching.study.claims import trial_dir
from archlab.searching.study.database import open_database, open_journal
from archlab.searching.study.identity import LOCAL_STUDY, new_identity, read_identity, require_same_search

_SEARCH = "search"  # user attribute of the study: the search's UUID


def open_storage(folder: Path, storage_url: str | None, create: bool) -> BaseStorage:
    """Return Optuna's storage of a search; `storage_url` is None for study.db.

    A file, that or a journal, is only created by `create`, without which nothing is written.
    """
    file = _own_file(folder, storage_url)
    if file is None:
        assert storage_url is not None
        return open_database(storage_url, read_only=not create)
    if not create and not file.is_file():
        raise ArchlabError(f"{file}: is missing; archlab search begins the search again")
    if storage_url is not None:
        return open_journal(file)
    return open_database(sqlite_url(file), name=str(file), read_only=not create)


def storage_name(folder: Path, storage_url: str | None) -> str:
    """Return the name of the storage in messages: its file, or its URL."""
    if storage_url is None:
        return str(folder / "study.db")
    return str(journal_file(storage_url, folder)) if is_journal(storage_url) else storage_url


def _own_file(folder: Path, storage_url: str | None) -> Path | None:
    if storage_url is None:
        return folder / "study.db"
    url = connection_url(storage_url)
    return journal_file(url, folder) if is_journal(url) else None


def find_study(storage: BaseStorage, space: Space, folder: Path, place: str, create: bool) -> str:
    """Return the name of the search's study, after a comparison of its UUID with the directory's."""
    identity = read_identity(folder)
    name = identity.study if identity else _former_name(folder, space.study.storage)
    directions = [StudyDirection[direction.upper()] for direction in space.objectives.values()]
    try:
        study = storage.get_study_id_from_name(name)
    except KeyError:
        if not create or any((folder / "trials").glob("*")):
            problem = "has no study of this search; bring it back, or start over with --force"
            raise ArchlabError(f"{place}: {problem}") from None
        study = storage.create_new_study(directions, name)
    if list(storage.get_study_directions(study)) != directions:
        raise ArchlabError(f"{place}: the study {name} has other objectives than {folder / 'search.yaml'}")
    found = storage.get_study_user_attrs(study).get(_SEARCH, "")
    require_same_search(found, identity, f"{place}: the study {name}")
    if not found:
        trials = storage.get_all_trials(study, deepcopy=False)
        if identity and trials:  # this search's own study has its UUID before its first trial
            raise ArchlabError(f"{place}: the study {name} is of another search, of an earlier version; move it away")
        _require_own_trials(trials, folder, f"{place}: the study {name}")
    if create and (identity is None or not found):
        identity = identity or new_identity(space, found, name)
        storage.set_study_user_attr(study, _SEARCH, identity.search)
        identity.write(folder)
    return name


def _require_own_trials(trials: Sequence[FrozenTrial], folder: Path, what: str) -> None:
    """Raise ArchlabError if trials of a study without a UUID, of an earlier version, are in another directory."""
    for trial in trials:
        if trial.state == TrialState.COMPLETE and not trial_dir(folder, trial.number).is_dir():
            raise ArchlabError(f"{what} holds another search: its trial {trial.number} is not in {folder / 'trials'}")


def delete_study(folder: Path, storage_url: str | None) -> None:
    """Remove the study of a search directory from its storage, unless that holds another search's by its name."""
    for file in (*folder.glob("study.db*"), *folder.glob("study.journal*")):
        file.unlink()
    if storage_url is None or storage_url == JOURNAL:
        return
    identity, public = read_identity(folder), take_password(storage_url, "study.storage")
    storage = open_storage(folder, public, create=True)
    try:
        study = storage.get_study_id_from_name(identity.study if identity else _former_name(folder, public))
    except KeyError:
        return
    if identity and storage.get_study_user_attrs(study).get(_SEARCH) == identity.search:
        storage.delete_study(study)


def _former_name(folder: Path, storage_url: str | None) -> str:
    """Return the name of a study that an earlier version created: in a shared storage, from the directory's path."""
    if storage_url is None:
        return LOCAL_STUDY
    return f"archlab-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]}"
