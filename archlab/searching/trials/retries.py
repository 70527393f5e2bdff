"""Trials that the user or the machine stopped: left open, and continued by a retry from their last checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from optuna.trial import Trial

from archlab.searching.study.claims import leave, trial_dir
from archlab.searching.study.progress import checkpoint_step
from archlab.searching.study.search_dir import STUDY_LOCK
from archlab.searching.study.study import SearchStudy, earlier_attempts, mark_interrupted
from archlab.searching.trials.callbacks import Judge
from archlab.storage.locks import lock
from archlab.training import metrics


def leave_open(study: SearchStudy, number: int, folder: Path) -> None:
    """Close a trial that something else has ended, so that a retry continues it, whatever else fails meanwhile."""
    # First: if the database is away, the trial stays "running", and the next worker must not count that as a death of
    # the trial's own doing.
    leave(folder, number)
    with suppress(Exception):  # the caller raises the exception that ended the trial
        interrupt(study, number, folder, by_itself=False)


def interrupt(study: SearchStudy, number: int, folder: Path, *, by_itself: bool) -> None:
    """Close a trial that this process has claimed and that was interrupted; see `mark_interrupted`."""
    # No worker may ask for a trial meanwhile, with retries enqueued: a candidate that neither runs nor
    # waits would be taken for one that is still to come, and be tried twice.
    with lock(folder / STUDY_LOCK, wait=True):
        mark_interrupted(study, study.get_trials()[number], folder, by_itself=by_itself)


def continue_retried(study: SearchStudy, trial: Trial, folder: Path, metric: str, judge: Judge | None) -> bool:
    """Move the last checkpoint of the trial that this one runs again into its directory; return whether there is one.

    The values of `metric` until then are reported to the judge, if there is one.
    """
    run = trial_dir(folder, trial.number)
    for earlier in _earlier_runs(study, trial, folder):
        step = checkpoint_step(earlier)
        if step is None:
            continue
        shutil.copyfile(earlier / "metrics.jsonl", run / "metrics.jsonl")
        # Last the file without which a run is not resumed: a worker that dies in between leaves a run to start over.
        (earlier / "checkpoints").rename(run / "checkpoints")
        shutil.copyfile(earlier / "experiment.yaml", run / "experiment.yaml")
        for record in metrics.read(run):
            if judge is not None and metric in record and record["step"] <= step:
                judge.report(record[metric], record["step"])
        return True
    return False


def continue_runs(study: SearchStudy, trial: Trial, folder: Path) -> None:
    """Move the runs of the trial that this one runs again, and its trained model, into its directory."""
    own = trial_dir(folder, trial.number)
    for earlier in _earlier_runs(study, trial, folder):
        for name in ("final", "runs", "tasks"):  # of several earlier attempts, where one was killed between the two
            if (earlier / name).is_dir() and not (own / name).exists():
                (earlier / name).rename(own / name)


def _earlier_runs(study: SearchStudy, trial: Trial, folder: Path) -> Iterator[Path]:
    """Yield the directories of the trials that a trial runs again, the latest first."""
    return (trial_dir(folder, number) for number in earlier_attempts(study, trial))
