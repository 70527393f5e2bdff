"""How far a search has come: read from its study and its directory, in which nothing is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from archlab.searching.results.baseline import read_baseline
from archlab.searching.space.search_space import Space
from archlab.searching.study.claims import trial_dir
from archlab.searching.study.promotion import is_paused
from archlab.searching.study.study import finished_trials
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.storage.lock_holders import holder
from archlab.training.progress import Progress, Reached, RunProgress, estimate_left
from archlab.training.run_progress import run_progress

_RECENT = 5
_NAMES: Mapping[TrialState, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
BASELINE = "baseline"


def search_progress(study: optuna.Study, space: Space, folder: Path, total: int) -> Progress:
    """Return the progress of a search of `total` trials, of all its workers together."""
    trials = study.get_trials(deepcopy=False)
    done, running = finished_trials(study), [t for t in trials if t.state == TrialState.RUNNING and not is_paused(t)]
    paused = sum(map(is_paused, trials))
    baseline, runs = _baseline_run(folder, space), [_trial_run(folder, trial, space) for trial in running]
    in_flight = [
        *(run.times for run in baseline),
        *(_times(*each, folder, space) for each in zip(running, runs, strict=True)),
    ]
    counts: Counter[str] = Counter(_NAMES[trial.state] for trial in done)
    counts["running"] = sum(run.state != "stopped" for run in runs)
    if paused:
        counts["paused"] = paused
    return Progress(
        kind="search",
        name=space.name,
        total=total,
        counts=dict(counts),
        best=_best(done, space.objectives),
        baseline=_baseline(folder, space.objectives),
        front=_front(study, space.objectives),
        running=(*baseline, *runs),
        recent=tuple(map(_ended_progress, sorted(done, key=_end)[-_RECENT:])),
        seconds_left=estimate_left(_durations(done, folder), total - len(done) - len(running) - paused, in_flight),
    )


def _end(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete is not None else 0.0


def _ended_progress(trial: FrozenTrial) -> RunProgress:
    attrs, state = trial_attrs(trial), _NAMES[trial.state]
    metrics = {name: value for name, value in attrs.get("metrics", {}).items() if name.startswith("val_")}
    return RunProgress(f"trial {trial.number}", state, metrics=metrics, reason=attrs.get("reason", ""))


def _best(done: list[FrozenTrial], objectives: Mapping[str, str]) -> tuple[Reached, ...]:
    """Return the best value of each objective, with the trial that reached it first."""
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    if not complete:
        return ()
    best = []
    for index, (name, direction) in enumerate(objectives.items()):
        sign = -1 if direction == "maximize" else 1
        _, _, trial = min((sign * trial.values[index], trial.number, trial) for trial in complete)
        best.append(Reached(f"trial {trial.number}", {name: trial.values[index]}))
    return tuple(best)


def _front(study: optuna.Study, objectives: Mapping[str, str]) -> tuple[Reached, ...]:
    if len(objectives) < 2:
        return ()
    front = sorted(study.best_trials, key=lambda trial: trial.number)
    return tuple(Reached(f"trial {trial.number}", dict(zip(objectives, trial.values, strict=True))) for trial in front)


def _baseline(folder: Path, objectives: Mapping[str, str]) -> Reached | None:
    result = read_baseline(folder / BASELINE)
    values = {name: result.metrics[name] for name in objectives if name in result.metrics} if result else {}
    return Reached(BASELINE, values) if values else None


def _baseline_run(folder: Path, space: Space) -> list[RunProgress]:
    place = folder / BASELINE
    if read_baseline(place) is not None or holder(place / "lock") is None:
        return []
    run = _latest_run(place, space)
    return [run_progress(run, _label(BASELINE, place, run, space))]


def _trial_run(folder: Path, trial: FrozenTrial, space: Space) -> RunProgress:
    place = trial_dir(folder, trial.number)
    run = _latest_run(place, space)
    label = _label(f"trial {trial.number}", place, run, space)
    progress = run_progress(run, label)
    if holder(place / "lock") is None:
        reason = "its process is gone; the next worker continues with it"
        return RunProgress(label, "stopped", progress.step, progress.steps, progress.metrics, None, reason)
    if progress.state == "stopped":  # its worker is alive: between two runs, or before the first
        return RunProgress(label, "starting", progress.step, progress.steps, progress.metrics)
    return progress


def _latest_run(place: Path, space: Space) -> Path:
    """Return the directory of the run that a trial is at, where it has several: of tasks, of random seeds."""
    task = next((of for name in reversed([*space.tasks]) if (of := place / "tasks" / name).is_dir()), place)
    inner = [run for run in task.glob("runs/[0-9]*/") if run.name.isdigit()]
    return max(inner, key=lambda run: int(run.name), default=task)


def _label(name: str, place: Path, run: Path, space: Space) -> str:
    """Return the name of the run that a trial is at, as its own display has it."""
    kinds = run.relative_to(place).parts[::2]
    values = run.relative_to(place).parts[1::2]
    by_kind = dict(zip(kinds, values, strict=True))
    task = f", {by_kind['tasks']}" if "tasks" in by_kind else ""
    several = "runs" in by_kind and space.runs_per_trial > 1
    return f"{name}{task}" + (f", run {int(by_kind['runs']) + 1} of {space.runs_per_trial}" if several else "")


def _durations(done: list[FrozenTrial], folder: Path) -> list[float]:
    """Return the seconds of the trials that ended, or else those of the baseline."""
    known = [trial_attrs(trial).get("spent", {}).get("seconds") or _between(trial) for trial in done]
    baseline = read_baseline(folder / BASELINE)
    return known or ([baseline.spent["seconds"]] if baseline and baseline.spent.get("seconds") else [])


def _between(trial: FrozenTrial) -> float:
    return trial.duration.total_seconds() if trial.duration is not None else 0.0


def _times(trial: FrozenTrial, run: RunProgress, folder: Path, space: Space) -> tuple[float, float | None]:
    """Return the seconds that a trial has taken so far, and the seconds left of all its runs, if known."""
    if trial.datetime_start is None:
        return run.times
    elapsed = max(time.time() - trial.datetime_start.timestamp(), 0.0)
    num_runs = space.runs_per_trial * max(len(space.tasks), 1)
    if num_runs == 1:
        return elapsed, run.seconds_left
    place = trial_dir(folder, trial.number)
    ended = sum(1 for pattern in ("runs/*", "tasks/*/runs/*") for _ in place.glob(f"{pattern}/result.json"))
    share = (ended + (run.step / run.steps if run.steps and run.state == "training" else 0.0)) / num_runs
    return elapsed, elapsed * (1 - share) / share if 0 < share <= 1 else None
