"""A run's folder: what was trained there, and what came of it."""

from __future__ import annotations

from pathlib import Path

from archlab.config.diff import first_difference
from archlab.config.experiment import Experiment, load
from archlab.errors import ArchlabError
from archlab.storage.files import remove_dir_atomic, require_empty_dir, write_text
from archlab.training.metrics import read as read_metrics


def open_run(experiment: Experiment, folder: Path, resume: bool, force: bool) -> None:
    """Begin a run in a folder, or go on with it; raise ArchlabError where it holds another one."""
    file = folder / "experiment.yaml"
    if file.is_file() and resume:
        where = first_difference(load(file).resolved, experiment.resolved)
        if where:
            raise ArchlabError(f"{file}: {where}; name another folder, or begin anew with --force")
        return
    if file.is_file() and not force:
        raise ArchlabError(f"{folder}: holds a run; go on with it by --resume, or begin anew with --force")
    require_empty_dir(folder, force, f"the run {experiment.name!r}")
    for old in [*folder.glob("final/"), *sorted((folder / "checkpoints").glob("step_*"), reverse=True)]:
        remove_dir_atomic(old)
    write_text(file, experiment.to_yaml())


def last_metrics(folder: Path) -> dict[str, float]:
    """Return the newest value of each metric of a run."""
    merged: dict[str, float] = {}
    for record in read_metrics(folder):
        merged |= record
    return merged
