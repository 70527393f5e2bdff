"""How far a ladder has come: read from its directory, in which nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from archlab.config.strict_json import read_object
from archlab.searching.ladder.candidates import all_candidates, infeasible_reason
from archlab.searching.ladder.config import Ladder, Rung
from archlab.searching.ladder.results import FAILURE, LOCK
from archlab.searching.ladder.runs import EXPERIMENT
from archlab.searching.ladder.selection import read_decision
from archlab.searching.ladder.time_left import Sizes, ladder_seconds_left, num_runs, run_share, runs_ahead
from archlab.storage.json_values import is_finite
from archlab.storage.lock_holders import holder
from archlab.training.progress import Progress, Reached, RunProgress
from archlab.training.run_progress import run_progress


def first_candidates(ladder: Ladder) -> list[str]:
    """Return the names of the candidates that can be built, which enter the first rung."""
    return [one.name for one in all_candidates(ladder) if not infeasible_reason(ladder, one)]


def ladder_progress(ladder: Ladder, folder: Path, entrants: Sequence[str], sizes: Sizes) -> Progress:
    """Return the progress of a ladder at the rung that it is at; `entrants` are those of the first rung.

    The seconds left are those of all rungs, whose `sizes` are.
    """
    rung, names = ladder.rungs[0], list(entrants)
    for rung in ladder.rungs:
        decision = read_decision(folder / "rungs" / str(rung.number))
        if decision is None or rung is ladder.rungs[-1]:
            break
        names = decision.goes_on
    runs = [_run(place) for place in sorted((folder / "rungs" / str(rung.number)).glob("*/seed_*/"))]
    in_flight = [run for run in runs if run.state not in ("complete", "failed")]
    counts: Counter[str] = Counter(run.state for run in runs if run.state in ("complete", "failed"))
    counts["running"] = sum(run.state != "stopped" for run in in_flight)
    total = max(len(names) * num_runs(ladder, rung), len(runs))
    return Progress(
        kind="ladder",
        name=ladder.space.name,
        stage=f"rung {rung.number} of {len(ladder.rungs)}",
        total=total,
        counts=dict(counts),
        best=_best(runs, ladder.metric),
        running=tuple(in_flight),
        seconds_left=_seconds_left(ladder, folder, rung, runs, len(names), sizes),
    )


def _run(place: Path) -> RunProgress:
    label = f"{place.parent.name} {place.name.replace('_', ' ')}"
    progress = run_progress(place, label)
    if (place / FAILURE).is_file():
        reason = read_object(place / FAILURE, "the result of a run").get("reason")
        return RunProgress(label, "failed", progress.step, progress.steps, progress.metrics, reason=str(reason))
    if progress.state == "stopped" and holder(place / LOCK) is not None:  # its worker has not started to train
        return RunProgress(label, "starting", progress.step, progress.steps, progress.metrics)
    return progress


def _best(runs: Sequence[RunProgress], metric: str) -> tuple[Reached, ...]:
    """Return the candidate with the lowest mean loss over its seeds so far."""
    losses: dict[str, list[float]] = {}
    for run in runs:
        candidate, _, seed = run.label.partition(" seed ")
        if run.state == "complete" and " at " not in seed and is_finite(run.metrics.get(metric)):
            losses.setdefault(candidate, []).append(run.metrics[metric])
    means = {name: fmean(values) for name, values in losses.items()}
    best = min(means, key=lambda name: means[name], default=None)
    return () if best is None else (Reached(best, {metric: means[best]}),)


def _seconds_left(
    ladder: Ladder, folder: Path, rung: Rung, runs: Sequence[RunProgress], entrants: int, sizes: Sizes
) -> float | None:
    measured = {one.number: _durations(ladder, folder, one) for one in ladder.rungs[: rung.number]}
    ended = sum(run_share(ladder, run.label) for run in runs if run.state in ("complete", "failed"))
    running = [(run_share(ladder, run.label), *run.times) for run in runs if run.state not in ("complete", "failed")]
    return ladder_seconds_left(sizes, runs_ahead(ladder, rung, entrants), measured, ended, running)


def _durations(ladder: Ladder, folder: Path, rung: Rung) -> dict[str, list[float]]:
    """Return how long whole runs of a rung take, by the times of the files of those that have ended."""
    durations: dict[str, list[float]] = {}
    for ended in (folder / "rungs" / str(rung.number)).glob("*/seed_*/final/"):
        run = ended.parent
        if (begun := run / EXPERIMENT).is_file():
            seconds = max(ended.stat().st_mtime - begun.stat().st_mtime, 0.0)
            share = run_share(ladder, run.name.replace("_", " "))
            durations.setdefault(run.parent.name, []).append(seconds / share)
    return durations
