"""Run directories: starting, resuming or overwriting a run, and reading its last metrics."""

from __future__ import annotations

from pathlib import Path

from archlab.config.diff import first_difference
from archlab.config.experiment import Experiment, load
from archlab.errors import ArchlabError
from archlab.storage.files import remove_dir_atomic, require_empty_dir, write_text
from archlab.training.metrics import read as read_metrics


def open_run(experiment: Experiment, folder: Path, resume: bool, force: bool) -> None:
    """Start a run in a directory, or resume it; raise ArchlabError if the directory holds another run."""
    file = folder / "experiment.yaml"
    if file.is_file() and resume:
        difference = first_difference(load(file, recorded=True).resolved, experiment.resolved)
        if difference:
            raise ArchlabError(f"{file}: {difference}; name another directory, or start over with --force")
        return
    if file.is_file() and not force:
        raise ArchlabError(f"{folder}: holds a run; continue it with --resume, or start over with --force")
    require_empty_dir(folder, force, f"the run {experiment.name!r}")
    # The trained model first, and checkpoints from the newest to the oldest: if this is interrupted, the directory
    # still holds an earlier state of the run, and none of its files belongs to a later one.
    for old in [*folder.glob("final/"), *sorted((folder / "checkpoints").glob("step_*"), reverse=True)]:
        remove_dir_atomic(old)
    write_text(file, experiment.to_yaml())


def last_metrics(folder: Path) -> dict[str, float]:
    """Return the last value of each metric of a run."""
    merged: dict[str, float] = {}
    for record in read_metrics(folder):
        merged |= record
    return merged
