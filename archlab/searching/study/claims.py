"""The directory of a trial: locked by the worker that runs it, with the UUIDs of search and trial in its lock."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from archlab.errors import ArchlabError
from archlab.searching.study.trial_attrs import set_trial_attrs, trial_attrs
from archlab.storage.locks import lock

_STOPPED = "stopped"


def trial_dir(folder: Path, number: int) -> Path:
    """Return the directory of a trial's training run."""
    return folder / "trials" / f"{number:04d}"


def lock_file(folder: Path, number: int) -> Path:
    """Return the file that a worker keeps locked while it runs the trial."""
    return trial_dir(folder, number) / "lock"


@contextmanager
def claim(study: optuna.Study, trial: Trial, folder: Path, search: str) -> Iterator[None]:
    """Hold a trial's lock within a block, with the trial's own UUID in the study and in the directory."""
    with lock(lock_file(folder, trial.number), wait=True):
        name = uuid.uuid4().hex
        set_trial_attrs(study, trial, {"id": name})
        _write(folder, trial.number, {"search": search, "trial": name})
        yield


def leave(folder: Path, number: int) -> None:
    """Note that the worker leaves a trial open for a reason that is not the trial's, such as a full disk."""
    with suppress(OSError):  # an empty file, for which a full disk has room
        (trial_dir(folder, number) / _STOPPED).touch()


def has_left(folder: Path, trial: FrozenTrial) -> bool:
    """Tell whether the worker of an open trial noted that it leaves it."""
    return (trial_dir(folder, trial.number) / _STOPPED).exists()


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
