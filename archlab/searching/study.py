"""A search's memory: Optuna's study, its trials' folders, and what becomes of trials whose worker is gone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from archlab.errors import ArchlabError, one_line
from archlab.runtime.private_apis import set_trial_attr
from archlab.searching.space import Space
from archlab.storage.files import remove_dir_atomic
from archlab.storage.locks import is_free

MAX_ATTEMPTS = 3
INTERRUPTED, EXHAUSTED = "interrupted", "exhausted"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_WEIGHTS = ("final", "checkpoints")


class SearchStudy(optuna.Study):
    """A study whose trials are asked for one by one, and whose sampler may nevertheless call `stop`.

    Optuna's own `stop` raises RuntimeError outside of `Study.optimize`; samplers call it from `Study.tell`.
    """

    stopped = False

    def stop(self) -> None:
        """Remember that the sampler has no parameters left to suggest."""
        self.stopped = True


def open_study(space: Space, folder: Path) -> SearchStudy:
    """Open or begin the study of a search folder; raise ArchlabError where its storage cannot be used."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train = space.base.resolve().train
    try:
        storage, name = _open_storage(space, folder), _study_name(space, folder)
        directions = [optuna.study.StudyDirection[way.upper()] for way in space.objectives.values()]
        optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
        pruner = space.study.make_pruner(space.can_prune, train.steps, train.eval_every)
        study = SearchStudy(name, storage, pruner=pruner)
        _record_choices(study, space)
        return study
    except Exception as error:
        raise ArchlabError(f"{_url(space, folder)}: cannot be used: {one_line(error)}") from error


def _record_choices(study: optuna.Study, space: Space) -> None:
    """Keep what may vary beside the study: where that has grown, there is something left to try."""
    choices = json.dumps(space.asked["vary"], sort_keys=True)
    if study.user_attrs.get("vary") != choices:
        study.set_user_attr("vary", choices)
        study.set_user_attr(EXHAUSTED, False)


def delete_study(space: Space, folder: Path) -> None:
    """Remove the study of a search folder from its storage."""
    if space.study.storage is None:
        for file in folder.glob("study.db*"):
            file.unlink()
        return
    study = open_study(space, folder)
    optuna.delete_study(study_name=study.study_name, storage=_open_storage(space, folder))


def _open_storage(space: Space, folder: Path) -> optuna.storages.BaseStorage:
    local = space.study.storage is None
    return optuna.storages.RDBStorage(
        _url(space, folder), engine_kwargs={"connect_args": {"timeout": 120}} if local else None
    )


def _url(space: Space, folder: Path) -> str:
    return space.study.storage or f"sqlite:///{(folder / 'study.db').resolve()}"


def _study_name(space: Space, folder: Path) -> str:
    """Tell apart the searches that share a storage by the folders that hold their trials."""
    if space.study.storage is None:
        return "search"
    return f"archlab-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]}"


def trial_dir(folder: Path, number: int) -> Path:
    """Return where a trial is trained."""
    return folder / "trials" / f"{number:04d}"


def lock_file(folder: Path, number: int) -> Path:
    """Return the file that a trial's worker keeps locked."""
    return trial_dir(folder, number) / "lock"


def is_interrupted(trial: FrozenTrial) -> bool:
    """Tell whether a trial was cut off, rather than ending of itself."""
    return trial.state == TrialState.FAIL and bool(trial.user_attrs.get(INTERRUPTED))


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that ended of themselves."""
    return [trial for trial in study.get_trials(deepcopy=False, states=_ENDED) if not is_interrupted(trial)]


def is_exhausted(study: optuna.Study) -> bool:
    """Tell whether the sampler has tried everything, and nothing waits to be tried again."""
    return bool(study.user_attrs.get(EXHAUSTED)) and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def count_claimed(study: optuna.Study) -> int:
    """Return how many trials have ended or are being worked on."""
    # One reading: between two, another worker's trial could end and be counted in neither.
    trials = study.get_trials(deepcopy=False, states=(*_ENDED, TrialState.RUNNING))
    return sum(not is_interrupted(trial) for trial in trials)


def fail_stale_trials(study: SearchStudy, folder: Path) -> None:
    """Close the trials whose workers are gone, and have them tried again."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if is_free(lock_file(folder, trial.number)):
            mark_interrupted(study, trial, folder, by_itself=True)


def mark_interrupted(study: SearchStudy, trial: FrozenTrial, folder: Path, *, by_itself: bool) -> None:
    """Close a trial that was cut off; it is tried again unless it has brought its worker down too often.

    The retry is put down first, so that being cut off between the two loses nothing.
    """
    attempt = int(trial.user_attrs.get("attempt", 1)) + by_itself
    fatal = attempt > MAX_ATTEMPTS
    if not fatal and not _is_retried(study, trial):
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if parameters:
            study.enqueue_trial(parameters, {"attempt": attempt, "retry_of": trial.number})
    reason = f"its process ended {MAX_ATTEMPTS} times while it ran" if fatal else INTERRUPTED
    set_trial_attrs(study, trial, {INTERRUPTED: not fatal, "reason": reason})
    tell(study, trial, None, TrialState.FAIL)
    delete_weights(trial_dir(folder, trial.number))


def _is_retried(study: optuna.Study, trial: FrozenTrial) -> bool:
    return any(other.user_attrs.get("retry_of") == trial.number for other in study.get_trials(deepcopy=False))


def set_trial_attrs(study: optuna.Study, trial: FrozenTrial | Trial, facts: Mapping[str, Any]) -> None:
    """Keep facts beside a trial, as plain JSON data."""
    for name, value in facts.items():
        plain = json.loads(json.dumps(value))
        if isinstance(trial, Trial):
            trial.set_user_attr(name, plain)
        else:
            set_trial_attr(study, trial, name, plain)


def tell(study: SearchStudy, trial: FrozenTrial | Trial, values: Sequence[float] | None, state: TrialState) -> None:
    """Close a trial, and note it where the sampler has nothing left to try."""
    study.stopped = False
    study.tell(trial.number, values, state)
    if study.stopped:  # recorded after the trial, whose result another worker would miss otherwise
        study.set_user_attr(EXHAUSTED, True)


def delete_weights(run: Path) -> None:
    """Remove a run's weights, and what a killed process left of them."""
    for path in [*(run / name for name in _WEIGHTS), *run.glob(".*.archlab-partial")]:
        if path.is_dir():
            remove_dir_atomic(path)
