"""The directory of a trial: locked by the worker that runs it, with the UUIDs of search and trial in its lock."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from archlab.errors import ArchlabError
from archlab.searching.study.trial_attrs import set_trial_attrs, trial_attrs
from archlab.searching.study.workers import is_dead, own_lease
from archlab.storage.lease_file import boot_id
from archlab.storage.lease_observer import LeaseView
from archlab.storage.leases import LeaseLost
from archlab.storage.locks import lock

_STOPPED = "stopped"
_logger = logging.getLogger(__name__)


def trial_dir(folder: Path, number: int) -> Path:
    """Return the directory of a trial's training run."""
    return folder / "trials" / f"{number:04d}"


def lock_file(folder: Path, number: int) -> Path:
    """Return the file that a worker keeps locked while it runs the trial."""
    return trial_dir(folder, number) / "lock"


@contextmanager
def claim(study: optuna.Study, trial: Trial, folder: Path, search: str, *, is_apart: bool = False) -> Iterator[None]:
    """Hold a trial within a block, with its own UUID and the worker's in the study and in the directory.

    `is_apart` says that it runs in a process of its own, so that it is hardly to blame for the death of the worker.
    A block that ends because others have taken the trial over raises nothing: the worker continues with another one.
    """
    lease, run = own_lease(folder), trial_dir(folder, trial.number)
    if lease and lease.is_lost:
        lease.renew()
    with lock(lock_file(folder, trial.number), wait=True):
        name = uuid.uuid4().hex
        set_trial_attrs(study, trial, {"id": name})
        holder = {"worker": lease.id, "boot": boot_id()} if lease else {}
        _write(folder, trial.number, {"search": search, "trial": name, "is_apart": is_apart, **holder})
        if lease:
            lease.update({"trial": trial.number, "run": str(run.relative_to(folder))})
        try:
            yield
        except LeaseLost as error:
            _logger.warning("trial %d: %s", trial.number, error)
        finally:
            if lease:
                lease.update(None)


@contextmanager
def stale(folder: Path, number: int, workers: Mapping[str, LeaseView]) -> Iterator[bool]:
    """Yield whether the worker of a running trial has died; `workers` are those that `bury_dead_workers` has seen."""
    note = _read(folder, number)
    with lock(lock_file(folder, number), wait=False) as acquired:
        # On this kernel a lock that is free is that of a worker that has ended, or has left the trial. On another one
        # it says nothing, and a process that was suspended still holds it.
        is_left = acquired and ("worker" not in note or note.get("boot") == boot_id())
        yield is_left or ("worker" in note and is_dead(folder, note["worker"], workers))


def leave(folder: Path, number: int) -> None:
    """Note that the worker leaves a trial open for a reason that is not the trial's, such as a full disk."""
    with suppress(OSError):  # an empty file, which a full disk can still hold
        (trial_dir(folder, number) / _STOPPED).touch()


def has_left(folder: Path, trial: FrozenTrial) -> bool:
    """Return whether the worker of an open trial noted that it leaves it."""
    return (trial_dir(folder, trial.number) / _STOPPED).exists()


def is_apart(folder: Path, trial: FrozenTrial) -> bool:
    """Return whether a trial runs, or ran, in a process of its own."""
    return bool(_read(folder, trial.number).get("is_apart"))


def require_own_dir(folder: Path, trial: FrozenTrial) -> None:
    """Raise ArchlabError if the directory of a trial's number holds another trial; earlier versions' are not known."""
    found, own = _read(folder, trial.number).get("trial"), trial_attrs(trial).get("id")
    if found and own and found != own:
        raise ArchlabError(
            f"{trial_dir(folder, trial.number)}: is not of trial {trial.number} of the study, but of another"
        )


def _read(folder: Path, number: int) -> dict[str, Any]:
    try:
        note = json.loads(lock_file(folder, number).read_text())
    except (OSError, ValueError):  # empty, as those of earlier versions are
        return {}
    return note if isinstance(note, dict) else {}


def _write(folder: Path, number: int, note: dict[str, Any]) -> None:
    # In place: a file that replaces the locked one would be another file, which is not locked.
    lock_file(folder, number).write_text(json.dumps(note))
