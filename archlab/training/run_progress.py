"""How far a training run has come, read from its directory, in which nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from archlab.config.yaml_files import load_yaml
from archlab.errors import ConfigError
from archlab.storage.checkpoint import checkpoints
from archlab.storage.json_values import is_count, is_finite
from archlab.storage.lock_holders import holder
from archlab.storage.run_identity import is_run
from archlab.training.metrics_file import NAME, OF_THE_MACHINE
from archlab.training.progress import Progress, RunProgress, State

_UNTOLD = ("lr", "grad_norm", "tokens", *OF_THE_MACHINE)
_TAIL_BYTES = 65536  # of a log, which may have millions of lines; the last evaluation of most runs is in it


def read_run_progress(folder: Path) -> Progress:
    """Return the progress of a run by itself."""
    run = run_progress(folder, folder.resolve().name)
    if run.state == "stopped" and run.steps and run.step >= run.steps:
        run = replace(run, state="complete", reason="its model was not kept")  # as of a trial that was not the best
    state = {"complete": "complete", "stopped": "stopped", "failed": "failed"}.get(run.state, "running")
    return Progress("run", run.label, state, running=(run,))  # type: ignore[arg-type]


def run_progress(folder: Path, label: str, *, lock_file: str = ".run.lock") -> RunProgress:
    """Return how far a run has come, by its metrics.jsonl, and whether a process still trains it, by its lock.

    Where the operating system does not show who holds a lock, the run counts as running.
    """
    train = _train(folder)
    metrics = _last_metrics(folder / NAME)
    step, steps = int(metrics.pop("step", 0)), _count(train, "steps")
    state, reason = _state(folder, lock_file, step)
    return RunProgress(label, state, step, steps, metrics, _seconds_left(train, metrics, step, steps, state), reason)


def _state(folder: Path, lock_file: str, step: int) -> tuple[State, str]:
    if (folder / "final").is_dir():
        return "complete", ""
    process = holder(folder / lock_file)
    if process is not None:
        return ("training" if step else "starting"), ""
    saved = max(checkpoints(folder / "checkpoints"), default=0)
    return "stopped", f"no process works on it; saved at step {saved}" if saved else "no process works on it"


def _train(folder: Path) -> dict[str, Any]:
    if not (folder / "experiment.yaml").is_file() or not is_run(folder):
        return {}
    try:
        train = load_yaml(folder / "experiment.yaml").get("train")
    except ConfigError:  # of a stranger's directory, in which the log alone may be readable
        return {}
    return train if isinstance(train, dict) else {}


def _count(train: dict[str, Any], name: str, default: int = 0) -> int:
    value = train.get(name, default)
    return int(value) if is_count(value) else 0


def _last_metrics(file: Path) -> dict[str, float]:
    """Return the last value of each number near the end of a log; what is damaged there is passed over."""
    metrics: dict[str, float] = {}
    for record in _tail(file):
        metrics |= {name: value for name, value in record.items() if is_finite(value)}
    return {name: metrics[name] for name in metrics if name not in _UNTOLD}


def _tail(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(max(size - _TAIL_BYTES, 0))
            lines = opened.read().split(b"\n")[1 if size > _TAIL_BYTES else 0 : -1]
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _seconds_left(
    train: dict[str, Any], metrics: dict[str, float], step: int, steps: int, state: State
) -> float | None:
    speed = metrics.get("tokens_per_s")
    tokens = _count(train, "batch_size") * _count(train, "context") * _count(train, "accumulate", 1)
    return (steps - step) * tokens / speed if speed and steps and tokens and state == "training" else None
