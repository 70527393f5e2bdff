"""Run directories: starting, resuming or overwriting a run, its identity, and its last metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from archlab.config.budget import Budget
from archlab.config.diff import first_difference
from archlab.config.experiment import Experiment, load
from archlab.errors import ArchlabError
from archlab.storage.checkpoint import read_checkpoint_identity
from archlab.storage.files import remove_dir_atomic, write_text
from archlab.storage.identity import KEY, Identity, new_id, require_same
from archlab.storage.ownership import RUN, first_foreign, first_link, listed_dir
from archlab.storage.run_identity import RUN_FILE, experiment_identity, is_run, read_run_identity, require_unedited
from archlab.storage.targets import require_apart, require_dir
from archlab.training.metrics import read as read_metrics
from archlab.training.metrics_file import OF_THE_MACHINE

# Files of a process that was killed before its first step.
_NOT_BEGUN = ("lock", "output.log", ".run.lock", RUN_FILE)


def require_run_dir(experiment: Experiment, folder: Path, resume: bool, force: bool) -> None:
    """Raise ArchlabError, changing nothing, unless a run may be started or resumed in a directory."""
    require_dir(folder)
    if not _entries(folder):
        return
    if not is_run(folder):
        first = _entries(folder)[0].name
        raise ArchlabError(f"{folder}: is not empty and no run: it holds {first!r}; name another directory")
    if not resume and not force:
        raise ArchlabError(f"{folder}: holds a run; continue it with --resume, or start over with --force")
    if link := first_link(folder, RUN):
        raise ArchlabError(f"{link}: is a link, which is not followed to be replaced; name another directory")
    if not resume:
        _require_only_own(experiment, folder)
    elif (folder / "final").exists() and (foreign := listed_dir(folder / "final")):
        raise ArchlabError(f"{foreign}: was not written by archlab; move it away, for the run's end replaces final/")


def _require_only_own(experiment: Experiment, folder: Path) -> None:
    if folder.is_symlink():
        raise ArchlabError(f"{folder}: is a link; to start over its target, name {folder.resolve()}")
    if foreign := first_foreign(folder, RUN):
        raise ArchlabError(f"{foreign}: was not written by archlab; move it away, or name another directory")
    require_apart(folder, _files_of(experiment.task.to_plain()))


def _files_of(value: Any, key: str = "") -> Iterator[Path]:
    """Yield the files and directories that a task reads, as far as its knobs name them."""
    for name, below in value.items() if isinstance(value, dict) else ():
        yield from _files_of(below, name)
    for below in value if isinstance(value, list) else ():
        yield from _files_of(below, key)
    if isinstance(value, str) and (key in ("path", "tokenizer") or "/" in value) and Path(value).exists():
        yield Path(value)


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise ArchlabError(f"{folder}: cannot hold a run: {error.strerror}") from error
    return [path for path in found if path.name not in _NOT_BEGUN and not path.match(".*.archlab-*")]


def open_run(experiment: Experiment, folder: Path, resume: bool, force: bool, budget: Budget | None = None) -> Identity:
    """Start a run in a directory, or resume it, and return its identity; raise ArchlabError if it is another's.

    `budget` is the one that was resolved to the steps of the experiment, which a resumed run must have too. The caller
    holds the run's lock.
    """
    require_run_dir(experiment, folder, resume, force)
    if resume and (folder / "experiment.yaml").is_file():
        return _resume(experiment, folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)
    identity, file = {"run": new_id(), **({"budget": str(budget)} if budget else {})}, folder / "experiment.yaml"
    write_run_identity(folder, identity)  # first: it marks the directory as a run's
    write_text(file, experiment.to_yaml())
    # Of the data as read from the file: after writing and reading they need not equal the original.
    identity |= experiment_identity(file)
    write_run_identity(folder, identity)
    return identity


def _resume(experiment: Experiment, folder: Path) -> Identity:
    file = folder / "experiment.yaml"
    # Any layout continues exactly where another one has stopped.
    earlier, present = map(_as_resumed, (load(file, recorded=True), experiment))
    difference = first_difference(earlier.resolved, present.resolved)
    if difference:
        raise ArchlabError(f"{file}: {difference}; name another directory, or start over with --force")
    require_unedited(folder)
    # A run of archlab 0.1 has no UUID until its last checkpoint is known.
    return {**experiment_identity(file), **read_run_identity(folder)}


def _as_resumed(experiment: Experiment) -> Experiment:
    """Return an experiment without its description and the settings of its devices and loggers, which train nothing."""
    # A later version may describe a shipped experiment in other words.
    return replace(
        experiment, description="", parallel=None, train=replace(experiment.train, loggers=None, profile=None)
    )


def join_identity(folder: Path, own: Identity, data: Any, last: Path | None) -> Identity:
    """Return a run's whole identity, with the SHA-256 of its data, and write it into the directory.

    Raises ArchlabError if the last checkpoint is another run's.
    """
    own = {**own, "data": data} if isinstance(data, str) else own
    if last is not None:
        found = read_checkpoint_identity(last)
        # The task's data are compared in full when the checkpoint is read, which reports what has changed.
        require_same(found, last, {key: value for key, value in own.items() if key != "data"}, folder / RUN_FILE)
        own = {**found, **own}
    own = {"run": new_id(), **own}
    if own != read_run_identity(folder):
        write_run_identity(folder, own)
    return own


def write_run_identity(folder: Path, identity: Identity) -> None:
    """Write run.json, by which the files of a run are distinguished from those of another."""
    write_text(folder / RUN_FILE, json.dumps({KEY: dict(identity)}, indent=2))


def require_own(folder: Path, identity: Identity) -> None:
    """Raise ArchlabError if a run's directory was removed, or given to another run, while it trained."""
    try:
        found = read_run_identity(folder)
    except ArchlabError:
        found = {}
    if found.get("run") != identity["run"]:
        raise ArchlabError(f"{folder}: was removed or replaced while this run trained; it is not written to any more")


def _remove_earlier(folder: Path) -> None:
    # The trained model first, and checkpoints from the newest to the oldest: if this is interrupted, the directory
    # still holds an earlier state of the run, and none of its files belongs to a later one.
    for old in [
        *folder.glob("final/"),
        *folder.glob("tokens/"),
        *folder.glob("profile/"),
        *folder.glob("evaluations/"),
        *sorted((folder / "checkpoints").glob("step_*"), reverse=True),
    ]:
        remove_dir_atomic(old)
    logs = (folder / "tensorboard").glob("events.out.tfevents.*")
    for file in [*(folder / name for name in ("report.html", "result.json", "metrics.jsonl")), *logs]:
        file.unlink(missing_ok=True)


def last_metrics(folder: Path) -> dict[str, float]:
    """Return the last value of each metric of a run, without those of the machine that it ran on."""
    merged: dict[str, float] = {}
    for record in read_metrics(folder):
        merged |= record
    return {name: value for name, value in merged.items() if name not in OF_THE_MACHINE}
