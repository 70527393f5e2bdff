"""Optuna's study of a search, the directories of its trials, and the retries of interrupted trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from archlab.errors import ArchlabError, one_line
from archlab.searching.space import Space
from archlab.searching.trial_attrs import set_trial_attrs, trial_attrs
from archlab.storage.files import remove_dir_atomic
from archlab.storage.locks import is_free

MAX_ATTEMPTS = 3
INTERRUPTED = "interrupted"
STOPPED = "stopped"  # a file in a trial's directory: its worker was told to stop, or the machine failed
_EXHAUSTED, _VARY = "exhausted", "vary"  # user attributes of the study
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


def open_study(space: Space, folder: Path) -> SearchStudy:
    """Open or create the study of a search directory; raise ArchlabError if its storage cannot be used."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train = space.base.resolve().train
    try:
        storage, name = _open_storage(space, folder), _study_name(space, folder)
        directions = [optuna.study.StudyDirection[direction.upper()] for direction in space.objectives.values()]
        optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        pruner = space.study.make_pruner(space.can_prune, train.steps, train.eval_every)
        study = SearchStudy(name, storage, pruner=pruner)
        _record_choices(study, space)
        return study
    except Exception as error:
        raise ArchlabError(f"{_url(space, folder)}: cannot be used: {one_line(error)}") from error


def _record_choices(study: optuna.Study, space: Space) -> None:
    """Store the search space with the study; where it has grown, the study is no longer exhausted."""
    choices = json.dumps(space.data["vary"], sort_keys=True)
    if study.user_attrs.get(_VARY) != choices:
        study.set_user_attr(_VARY, choices)
        study.set_user_attr(_EXHAUSTED, False)


def delete_study(space: Space, folder: Path) -> None:
    """Remove the study of a search directory from its storage."""
    if space.study.storage is None:
        for file in folder.glob("study.db*"):
            file.unlink()
        return
    study = open_study(space, folder)
    optuna.delete_study(study_name=study.study_name, storage=_open_storage(space, folder))


def _open_storage(space: Space, folder: Path) -> optuna.storages.BaseStorage:
    local = space.study.storage is None
    # Seconds that SQLite waits for another worker's write; its default of 5 is too short for many workers.
    return optuna.storages.RDBStorage(
        _url(space, folder), engine_kwargs={"connect_args": {"timeout": 120}} if local else None
    )


def _url(space: Space, folder: Path) -> str:
    return space.study.storage or f"sqlite:///{(folder / 'study.db').resolve()}"


def _study_name(space: Space, folder: Path) -> str:
    """Return a name that differs between searches in one storage: it is derived from the search's directory."""
    if space.study.storage is None:
        return "search"
    return f"archlab-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]}"


def trial_dir(folder: Path, number: int) -> Path:
    """Return the directory of a trial's training run."""
    return folder / "trials" / f"{number:04d}"


def lock_file(folder: Path, number: int) -> Path:
    """Return the file that a worker keeps locked while it runs the trial."""
    return trial_dir(folder, number) / "lock"


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
    """Mark running trials whose worker has died as interrupted, and enqueue them again."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if is_free(lock_file(folder, trial.number)):
            died = not (trial_dir(folder, trial.number) / STOPPED).exists()
            mark_interrupted(study, trial, folder, by_itself=died)


def mark_interrupted(study: SearchStudy, trial: FrozenTrial, folder: Path, *, by_itself: bool) -> None:
    """Close an interrupted trial and enqueue a retry, unless its own process has died MAX_ATTEMPTS times.

    `by_itself` says that the process died, rather than a user stopping it.
    """
    attempt = trial_attrs(trial).get("attempt", 1) + by_itself
    fatal = attempt > MAX_ATTEMPTS
    # The retry comes first: a worker that is stopped between the two has lost nothing, and repeats only the second.
    if not fatal and not _is_retried(study, trial):
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if parameters:
            study.enqueue_trial(parameters, {"attempt": attempt, "retry_of": trial.number})
    reason = f"its process ended {MAX_ATTEMPTS} times while it ran" if fatal else INTERRUPTED
    set_trial_attrs(study, trial, {"interrupted": not fatal, "reason": reason})
    tell(study, trial, None, TrialState.FAIL)
    if fatal:  # otherwise the retry continues from the last checkpoint
        delete_weights(trial_dir(folder, trial.number))


def _is_retried(study: optuna.Study, trial: FrozenTrial) -> bool:
    return any(trial_attrs(other).get("retry_of") == trial.number for other in study.get_trials(deepcopy=False))


def tell(study: SearchStudy, trial: FrozenTrial | Trial, values: Sequence[float] | None, state: TrialState) -> None:
    """Close a trial, and mark the study exhausted if the sampler has nothing left to try."""
    study.stopped = False
    study.tell(trial.number, values, state)
    if study.stopped:  # recorded after the trial, whose result another worker would miss otherwise
        study.set_user_attr(_EXHAUSTED, True)


def delete_weights(run: Path) -> None:
    """Remove a run's weights, and partly written ones of a killed process."""
    for path in [*(run / name for name in _WEIGHTS), *run.glob(".*.archlab-partial")]:
        if path.is_dir():
            remove_dir_atomic(path)
