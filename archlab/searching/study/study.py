"""Optuna's study of a search, the results of its trials, and the retries of interrupted ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, Trial, TrialState

from archlab.errors import ArchlabError, one_line
from archlab.modeling.budget import resolve_budget
from archlab.searching.space.search_space import Space
from archlab.searching.study.choice_view import ChoicePruner
from archlab.searching.study.claims import has_left, is_apart, stale, trial_dir
from archlab.searching.study.progress import progress_of
from archlab.searching.study.promotion import is_paused
from archlab.searching.study.study_storage import find_study, open_storage, storage_name
from archlab.searching.study.trial_attrs import TrialAttrs, set_trial_attrs, trial_attrs
from archlab.searching.study.workers import bury_dead_workers
from archlab.storage.files import remove_dir_atomic
from archlab.storage.ownership import RUN

MAX_ATTEMPTS = 2  # without a further checkpoint
MAX_WORKERS = 25  # that died without a further checkpoint of a trial that ran in another process: it may be its doing
INTERRUPTED, PAUSED = "interrupted", "paused"
# User attributes of the study.
_EXHAUSTED, _VARY, _COUNTS_CANDIDATES, _NUMBERED = "exhausted", "vary", "counts_candidates", "numbered_combinations"
_KEPT_ATTRS = ("choice", "seed_of", "repeat", "candidate")  # of an interrupted trial, by the one that runs it again
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_WEIGHTS = ("final", "checkpoints", "tokens")


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
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings of a lost connection have a dozen lines
    train = resolve_budget(space.base.resolve()).train
    place = storage_name(folder, space.study.storage)
    try:
        storage = open_storage(folder, space.study.storage, create)
        name = find_study(storage, space, folder, place, create)
        pruner = _make_pruner(space, train.steps, train.eval_every)
        study = SearchStudy(name, storage, pruner=pruner)
        if create:
            _record_choices(study, space)
        return study
    except ArchlabError:
        raise
    except Exception as error:
        raise ArchlabError(f"{place}: cannot be used: {one_line(error)}") from error


def _make_pruner(space: Space, steps: int, eval_every: int) -> BasePruner:
    # Without a word in the space nothing is pruned in a comparison: it has its own way to give more to the better half.
    can_prune = space.can_prune and not space.compare
    pruner = space.study.make_pruner(can_prune, steps, eval_every, space.runs_per_trial)
    return ChoicePruner(pruner) if space.compare else pruner


def _record_choices(study: optuna.Study, space: Space) -> None:
    """Store the search space with the study; where it has grown, the study is no longer exhausted."""
    choices = json.dumps(space.data["vary"], sort_keys=True)
    if study.user_attrs.get(_VARY) != choices:
        if _VARY not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_user_attr(_COUNTS_CANDIDATES, True)
            study.set_user_attr(_NUMBERED, True)
        study.set_user_attr(_VARY, choices)
        study.set_user_attr(_EXHAUSTED, False)


def counts_candidates(study: optuna.Study) -> bool:
    """Whether the seed of a trial's sampler counts candidates, and not trials as in searches of earlier versions."""
    return bool(study.user_attrs.get(_COUNTS_CANDIDATES))


def has_numbered_combinations(study: optuna.Study) -> bool:
    """Whether brute force goes by the numbers of candidates, and not by tried combinations as in earlier versions."""
    return bool(study.user_attrs.get(_NUMBERED))


def mark_exhausted(study: optuna.Study) -> None:
    """Note that the whole space has been tried, or is being tried."""
    study.set_user_attr(_EXHAUSTED, True)


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
    """Mark running trials whose worker has died as interrupted, and enqueue interrupted trials again.

    The caller holds the lock of the study, under which trials are claimed and enqueued.
    """
    workers = bury_dead_workers(folder)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if is_paused(trial):
            continue
        with stale(folder, trial.number, workers) as is_stale:
            # Read again: its worker may have finished it, and released its lock, since the trials were listed.
            if is_stale and _state(study, trial.number) == TrialState.RUNNING:
                by_itself, by_worker = not has_left(folder, trial), is_apart(folder, trial)
                mark_interrupted(study, trial, folder, by_itself=by_itself and not by_worker, by_worker=by_worker)
    enqueue_retries(study)


def mark_interrupted(
    study: SearchStudy, trial: FrozenTrial, folder: Path, *, by_itself: bool, by_worker: bool = False
) -> None:
    """Close an interrupted trial, to be enqueued again unless MAX_ATTEMPTS brought no further checkpoint.

    `by_itself` says that its process died, rather than a user stopping it, `by_worker` that another process died, which
    ran it. No process writes the trial any more, and the caller holds the lock of the study.
    """
    attrs = trial_attrs(trial)
    progress = _progress(study, trial, folder)
    has_advanced = progress > attrs.get("progress", [0, 0])
    fruitless = 0 if has_advanced else attrs.get("fruitless", 0) + by_itself
    lost = 0 if has_advanced else attrs.get("lost_workers", 0) + by_worker
    why = _why_given_up(fruitless, lost)
    # Before the state: a finished trial's attributes do not change, and the retry is made from them.
    own: TrialAttrs = {"interrupted": not why, "reason": why or INTERRUPTED, "progress": progress}
    own |= {"fruitless": fruitless, "lost_workers": lost, "next_attempt": attrs.get("attempt", 1) + by_itself}
    # Otherwise the retry continues from the last checkpoint.
    if record_result(study, trial, own, None, TrialState.FAIL) and why:
        delete_weights(trial_dir(folder, trial.number))


def _why_given_up(fruitless: int, lost_workers: int) -> str:
    """Return why a trial is not run again, after so many deaths of its process and of its workers, or nothing."""
    if fruitless >= MAX_ATTEMPTS:
        return f"its process ended {fruitless} times while it ran, without a further checkpoint"
    if lost_workers >= MAX_WORKERS:
        return f"{lost_workers} workers died while it ran, without a further checkpoint"
    return ""


def _progress(study: SearchStudy, trial: FrozenTrial, folder: Path) -> list[int]:
    """Return how far a trial has come, or the one that it runs again, whose checkpoints it may not have taken yet."""
    every = [trial.number, *earlier_attempts(study, trial)]
    return max(progress_of(trial_dir(folder, number)) for number in every)


def earlier_attempts(study: optuna.Study, trial: FrozenTrial | Trial) -> Iterator[int]:
    """Yield the numbers of the trials that a trial runs again, the latest first."""
    number: int | None = trial.user_attrs.get("retry_of")
    if number is None:
        return
    trials = {each.number: each for each in study.get_trials(deepcopy=False)}
    while number in trials:
        yield number
        number = trial_attrs(trials[number]).get("retry_of")


def close_paused(study: SearchStudy) -> None:
    """Close the trials that wait for a promotion that does not come any more.

    The caller holds the lock of the study, in which nothing else runs.
    """
    for trial in filter(is_paused, study.get_trials(states=(TrialState.RUNNING,))):
        reason = f"paused at step {trial_attrs(trial)['paused']}, and not promoted"
        record_result(study, trial, {"reason": reason, "metrics": {}}, None, TrialState.PRUNED)


def enqueue_retries(study: SearchStudy) -> None:
    """Enqueue interrupted trials that no other trial runs again yet, as after a worker was stopped in between.

    The caller holds the lock of the study, so that no trial is enqueued twice.
    """
    trials = study.get_trials(deepcopy=False)
    retried = {trial_attrs(trial).get("retry_of") for trial in trials}
    for trial in trials:
        if not is_interrupted(trial) or trial.number in retried:
            continue
        attrs, fixed = trial_attrs(trial), trial.system_attrs.get("fixed_params", {})
        if not fixed and not trial.params:  # the sampler had chosen nothing yet
            continue
        # A trial that ended during its suggestions keeps nothing: the sampler, with the same seed, makes them again.
        is_whole = "values" in attrs or not counts_candidates(study)
        parameters = {**fixed, **trial.params} if is_whole else fixed
        kept = {name: attrs[name] for name in _KEPT_ATTRS if name in attrs}  # type: ignore[literal-required]
        own: TrialAttrs = {"attempt": attrs.get("next_attempt", 1), "retry_of": trial.number}
        own |= {"progress": attrs.get("progress", [0, 0]), "fruitless": attrs.get("fruitless", 0)}
        own |= {"lost_workers": attrs.get("lost_workers", 0)}
        study.enqueue_trial(parameters, {**own, **kept})


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
        mark_exhausted(study)


def _state(study: optuna.Study, number: int) -> TrialState:
    return study.get_trials(deepcopy=False)[number].state


def delete_weights(run: Path, names: Sequence[str] | None = None) -> None:
    """Remove the weights of a run, or those of `names`, and partly written ones of a killed process.

    Those of its tasks and runs are removed too.

    Links and foreign files stay.
    """
    own = [run / name for name in names or _WEIGHTS if (run / name).is_dir() and RUN[name](run / name) is None]
    for path in [*own, *(path for path in run.glob(".*.archlab-partial/") if not path.is_symlink())]:
        remove_dir_atomic(path)
    for inner in (*run.glob("runs/[0-9]*/"), *run.glob("tasks/*/")):
        if not inner.is_symlink() and not inner.parent.is_symlink():
            delete_weights(inner, names)
