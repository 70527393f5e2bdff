"""How far a run, a search or a ladder has come, for a process that only looks: it reads files and the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from archlab.errors import ArchlabError
from archlab.searching.ladder.config import parse_ladder
from archlab.searching.ladder.progress import first_candidates, ladder_progress
from archlab.searching.ladder.summary import read_ladder
from archlab.searching.ladder.time_left import rung_sizes
from archlab.searching.results.progress import BASELINE, search_progress
from archlab.searching.results.summary import read_summary
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.searching.study.search_dir import SPACE
from archlab.searching.study.study import open_study
from archlab.searching.study.workers import DIR, Worker, read_workers
from archlab.storage.find_model import owner_of, search_of
from archlab.storage.lease_observer import LeaseObserver
from archlab.storage.lock_holders import holder
from archlab.storage.run_identity import is_run
from archlab.training.progress import Progress, RunProgress, WorkerProgress
from archlab.training.run_progress import read_run_progress


def open_watch(folder: Path) -> Callable[[], Progress]:
    """Return a function that reads the progress of a run, a search or a ladder; nothing is written by it.

    A part of one, such as best/ or a rung, stands for the whole. Raises ArchlabError for another directory, and for
    one that cannot be read.
    """
    folder = owner_of(folder)
    if (folder / SPACE).is_file():
        space = load_space(folder / SPACE, recorded=True)
        space = replace(space, name=folder.resolve().name)  # the file's own is search.yaml in every directory
        return _open_ladder(space, folder) if space.is_ladder else _open_search(space, folder)
    if is_run(folder):
        return partial(_read_trial if search_of(folder) else read_run_progress, folder)
    what = "holds no run, search or ladder" if folder.is_dir() else "is not a directory"
    raise ArchlabError(f"{folder}: {what} to watch")


def _read_trial(folder: Path) -> Progress:
    return replace(read_run_progress(folder), kind="trial")


def _open_search(space: Space, folder: Path) -> Callable[[], Progress]:
    study, observer = open_study(space, folder, create=False), LeaseObserver(folder / DIR)

    def read() -> Progress:
        progress = search_progress(study, space, folder, space.study.trials)
        progress = _with_workers(progress, [_worker(each) for each in read_workers(folder, observer)])
        return _with_state(progress, folder, has_ended=read_summary(folder) is not None)

    return read


def _open_ladder(space: Space, folder: Path) -> Callable[[], Progress]:
    ladder = parse_ladder(space)
    entrants, sizes = first_candidates(ladder), rung_sizes(ladder)

    def read() -> Progress:
        progress = ladder_progress(ladder, folder, entrants, sizes)
        summary = read_ladder(folder)  # there is one too where a rung waits for another machine
        return _with_state(progress, folder, has_ended=summary is not None and not summary.waiting)

    return read


def _with_workers(progress: Progress, workers: Sequence[WorkerProgress]) -> Progress:
    """Return the progress with its workers, of whom those of other machines hold no lock that is seen here."""
    at_work = {worker.work for worker in workers if worker.state == "working"}
    running = tuple(
        replace(run, state="training", reason="")
        if run.state == "stopped" and run.label.partition(",")[0] in at_work
        else run
        for run in progress.running
    )
    num_running = sum(run.state != "stopped" and run.label != BASELINE for run in running)
    counts = {**progress.counts, "running": num_running}
    return replace(progress, running=running, counts=counts, workers=tuple(workers))


def _worker(worker: Worker) -> WorkerProgress:
    work = f"trial {worker.trial}" if worker.trial is not None else worker.run
    since = worker.dead_since or (worker.work_since if work else worker.since)
    return WorkerProgress(worker.state, worker.host, worker.pid, work, since, worker.reason)


def _with_state(progress: Progress, folder: Path, *, has_ended: bool) -> Progress:
    """Return the progress with whether a process works on it, and the work after the last trial."""
    is_alive = any(worker.state in ("working", "idle") for worker in progress.workers)
    if not is_alive and holder(folder / ".workers.lock") is None:
        return replace(progress, state="complete" if has_ended else "stopped", seconds_left=None)
    if progress.running or progress.done < progress.total or holder(folder / ".best.lock") is None:
        return progress
    return replace(progress, running=(RunProgress("whole validation split: best trial and baseline", "evaluating"),))
