"""The progress of a trial: the part that would be kept if its process died now."""

from __future__ import annotations

from pathlib import Path

from archlab.errors import ArchlabError
from archlab.storage.checkpoint import latest_checkpoint


def checkpoint_step(run: Path) -> int | None:
    """Return the step of the checkpoint from which a run continues, or None if it starts over."""
    if not all((run / name).is_file() for name in ("experiment.yaml", "metrics.jsonl")):
        return None
    try:
        newest = latest_checkpoint(run / "checkpoints")
    except ArchlabError:  # all are damaged: the retry starts over
        return None
    return int(newest.name.removeprefix("step_")) if newest else None


def progress_of(trial: Path) -> list[int]:
    """Return the number of a trial's runs that have ended, and the step from which the next one continues."""
    runs = [run for run in trial.glob("runs/[0-9]*/") if not run.is_symlink()]
    ended = [run for run in runs if (run / "result.json").is_file()]
    steps = (checkpoint_step(run) or 0 for run in (trial, *runs) if run not in ended)
    return [len(ended), max(steps)]
