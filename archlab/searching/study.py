"""Optuna's study of a search, the directories of its trials, and the retries of interrupted trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from archlab.errors import ArchlabError, one_line
from archlab.searching.claims import has_left, lock_file, trial_dir
from archlab.searching.database import open_database
from archlab.searching.identity import LOCAL_STUDY, new_identity, read_identity, require_same_search
from archlab.searching.space import Space
from archlab.searching.storage_url import sqlite_url, take_password
from archlab.searching.trial_attrs import TrialAttrs, set_trial_attrs, trial_attrs
from archlab.storage.files import remove_dir_atomic
from archlab.storage.locks import lock

MAX_ATTEMPTS = 3
INTERRUPTED = "interrupted"
_EXHAUSTED, _VARY, _SEARCH = "exhausted", "vary", "search"  # user attributes of the study
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_WEIGHTS = ("final", "checkpoints")


class SearchStudy(optuna.Study):
    """A study whose trials are asked for one by one, and whose sampler may nevertheless call `stop`.

    Optuna's own `stop` raises RuntimeError outside of `Study.optimize`; samplers that have tried everything call it
    from `Study.tell`.
    """

    stopped = False

    def stop(self) -> None:
        """Remember that the sampler has no parameters left to suggest."""
        self.stopped = True


def open_study(space: Space, folder: Path, *, create: bool = True) -> SearchStudy:
    """Open the study of a search directory, or create it, unless `create` is false: then nothing is written.

    Raises ArchlabError if its storage cannot be used, holds another search's study, or lost this one's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train = space.base.resolve().train
    place = space.study.storage or str(folder / "study.db")
    try:
        storage = _open_storage(folder, space.study.storage, create)
        name = _find_study(storage, space, folder, place, create)
        pruner = space.study.make_pruner(space.can_prune, train.steps, train.eval_every)
        study = SearchStudy(name, storage, pruner=pruner)
        if create:
            _record_choices(study, space)
        return study
    except ArchlabError:
        raise
    except Exception as error:
        raise ArchlabError(f"{place}: cannot be used: {one_line(error)}") from error


def _find_study(storage: BaseStorage, space: Space, folder: Path, place: str, create: bool) -> str:
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
        _require_own_trials(storage.get_all_trials(study, deepcopy=False), folder, f"{place}: the study {name}")
    if create and (identity is None or not found):
        identity = identity or new_identity(space, found, name)
        storage.set_study_user_attr(study, _SEARCH, identity.search)
        identity.write(folder)
    return name


def _require_own_trials(trials: Sequence[FrozenTrial], folder: Path, what: str) -> None:
    """Raise ArchlabError if trials of a study without a UUID, of an earlier version, lie in another directory."""
    for trial in trials:
        if trial.state == TrialState.COMPLETE and not trial_dir(folder, trial.number).is_dir():
            raise ArchlabError(f"{what} holds another search: its trial {trial.number} is not in {folder / 'trials'}")


def _record_choices(study: optuna.Study, space: Space) -> None:
    """Store the search space with the study; where it has grown, the study is no longer exhausted."""
    choices = json.dumps(space.data["vary"], sort_keys=True)
    if study.user_attrs.get(_VARY) != choices:
        study.set_user_attr(_VARY, choices)
        study.set_user_attr(_EXHAUSTED, False)


def delete_study(folder: Path, storage_url: str | None) -> None:
    """Remove the study of a search directory from its storage, unless that holds another search's by its name."""
    for file in folder.glob("study.db*"):
        file.unlink()
    if storage_url is None:
        return
    identity, public = read_identity(folder), take_password(storage_url, "study.storage")
    storage = open_database(public)
    try:
        study = storage.get_study_id_from_name(identity.study if identity else _former_name(folder, public))
    except KeyError:
        return
    if identity and storage.get_study_user_attrs(study).get(_SEARCH) == identity.search:
        storage.delete_study(study)


def _open_storage(folder: Path, storage_url: str | None, create: bool) -> BaseStorage:
    file = folder / "study.db"
    if storage_url is not None:
        return open_database(storage_url)
    if not create and not file.is_file():
        raise ArchlabError(f"{file}: is missing; archlab search begins the search again")
    return open_database(sqlite_url(file), name=str(file))


def _former_name(folder: Path, storage_url: str | None) -> str:
    """Return the name of a study that an earlier version created: in a shared storage, from the directory's path."""
    if storage_url is None:
        return LOCAL_STUDY
    return f"archlab-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]}"


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial was interrupted, rather than failed, and is to be run again."""
    return trial.state == TrialState.FAIL and trial_attrs(trial).get("interrupted", False)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were completed, pruned or failed, without the interrupted ones."""
    return [trial for trial in study.get_trials(deepcopy=False, states=_ENDED) if not is_interrupted(trial)]


def is_exhausted(study: optuna.Study) -> bool:
    """Whether the sampler has tried the whole space, and no trial is waiting for a retry."""
    return bool(study.user_attrs.get(_EXHAUSTED)) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def count_claimed(study: optuna.Study) -> int:
    """Return the number of trials that have ended or are running."""
    # One query: between two, another worker's trial could end and be counted in neither.
    trials = study.get_trials(deepcopy=False, states=(*_ENDED, TrialState.RUNNING))
    return sum(not is_interrupted(trial) for trial in trials)


def fail_stale_trials(study: SearchStudy, folder: Path) -> None:
    """Mark running trials whose worker has died as interrupted, and enqueue again what was interrupted.

    The caller holds the lock of the study, under which trials are claimed and enqueued.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        with lock(lock_file(folder, trial.number), wait=False) as acquired:
            # Read again: its worker may have finished it, and released its lock, since the trials were listed.
            if acquired and _state(study, trial.number) == TrialState.RUNNING:
                mark_interrupted(study, trial, folder, by_itself=not has_left(folder, trial))
    enqueue_retries(study)


def mark_interrupted(study: SearchStudy, trial: FrozenTrial, folder: Path, *, by_itself: bool) -> None:
    """Close an interrupted trial, to be enqueued again unless its own process has died MAX_ATTEMPTS times.

    `by_itself` says that the process died, rather than a user stopping it. The caller holds the trial's lock.
    """
    attempt = trial_attrs(trial).get("attempt", 1) + by_itself
    fatal = attempt > MAX_ATTEMPTS
    reason = f"its process ended {MAX_ATTEMPTS} times while it ran" if fatal else INTERRUPTED
    # The attempt before the state: a finished trial's attributes do not change, and the retry is made from them.
    attrs: TrialAttrs = {"interrupted": not fatal, "reason": reason, "next_attempt": attempt}
    if record_result(study, trial, attrs, None, TrialState.FAIL):
        delete_weights(trial_dir(folder, trial.number))


def enqueue_retries(study: SearchStudy) -> None:
    """Enqueue interrupted trials that no other trial runs again yet, as after a worker was stopped in between.

    The caller holds the lock of the study, so that no trial is enqueued twice.
    """
    trials = study.get_trials(deepcopy=False)
    retried = {trial_attrs(trial).get("retry_of") for trial in trials}
    for trial in trials:
        if not is_interrupted(trial) or trial.number in retried:
            continue
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if parameters:  # without, the sampler had chosen nothing yet
            attempt = trial_attrs(trial).get("next_attempt", 1)
            study.enqueue_trial(parameters, {"attempt": attempt, "retry_of": trial.number})


def record_result(
    study: SearchStudy,
    trial: FrozenTrial | Trial,
    attrs: TrialAttrs,
    values: Sequence[float] | None,
    state: TrialState,
) -> bool:
    """Store a trial's attributes and close it; return False, changing nothing, if another worker has closed it."""
    try:
        # Before the trial is closed: Optuna does not change the attributes of a finished trial.
        set_trial_attrs(study, trial, attrs)
        tell(study, trial, values, state)
    except UpdateFinishedTrialError:  # the storage compares the state and sets it in one transaction
        stored = study.get_trials(deepcopy=False)[trial.number]
        # It was this call, if the database went away after the transaction and the call was repeated.
        return stored.state == state and attrs.items() <= trial_attrs(stored).items()
    return True


def tell(study: SearchStudy, trial: FrozenTrial | Trial, values: Sequence[float] | None, state: TrialState) -> None:
    """Close a trial, and mark the study exhausted if the sampler has nothing left to try.

    Raises UpdateFinishedTrialError if another worker has closed it.
    """
    study.stopped = False
    try:
        study.tell(trial.number, values, state)
    except ValueError as error:
        if _state(study, trial.number) == TrialState.RUNNING:
            raise
        raise UpdateFinishedTrialError(one_line(error)) from error
    if study.stopped:  # recorded after the trial, whose result another worker would miss otherwise
        study.set_user_attr(_EXHAUSTED, True)


def _state(study: optuna.Study, number: int) -> TrialState:
    return study.get_trials(deepcopy=False)[number].state


def delete_weights(run: Path) -> None:
    """Remove a run's weights, and partly written ones of a killed process."""
    for path in [*(run / name for name in _WEIGHTS), *run.glob(".*.archlab-partial")]:
        if path.is_dir():
            remove_dir_atomic(path)
