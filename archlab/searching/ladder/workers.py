"""Who trains the runs of a ladder: this process, workers on this machine, or workers that a launcher places."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from archlab.config.strict_json import read_object
from archlab.errors import MachineError
from archlab.searching.fleet import Fleet
from archlab.searching.ladder.callbacks import LadderCallback
from archlab.searching.ladder.config import Ladder
from archlab.searching.ladder.progress import first_candidates, ladder_progress
from archlab.searching.ladder.results import FAILURE
from archlab.searching.ladder.runs import LadderRun
from archlab.searching.ladder.time_left import rung_sizes
from archlab.searching.ladder.train_runs import RunLosses, RunTrainer
from archlab.searching.space.search_space import Space
from archlab.searching.trials.process_pool import ProcessPool
from archlab.searching.trials.trial_resources import Seat, make_seats, num_seats
from archlab.storage.files import write_text
from archlab.storage.locks import lock

Workers: TypeAlias = int | Literal["auto"] | None
_THREADS = "threads.json"


class Trainer(Protocol):
    """Trains the runs of a ladder; `is_here` if on this machine."""

    losses: RunLosses
    is_here: bool

    def train_all(self, runs: Collection[LadderRun], is_late: Callable[[], bool]) -> None:
        """Return once all runs have ended, or it is late."""
        ...


def make_trainer(ladder: Ladder, folder: Path, callback: LadderCallback, workers: Workers) -> Trainer:
    """Return the trainer of a ladder's runs; with a launcher, its workers train first.

    With no number of workers it is this process.
    """
    space, losses = ladder.space, RunLosses(ladder.metric)
    if isinstance(workers, int) and space.study.launcher is not None:
        return _Launched(losses, launch_workers(ladder, folder, callback, workers))
    if workers is None:
        return RunTrainer(losses, callback)
    seats = _seats(folder, num_seats() if workers == "auto" else workers)
    pool = ProcessPool(folder, seats, space.plugins, space.study.time_limit)
    return RunTrainer(losses, callback, pool.open_runners, pool.run)


def without_launcher(space: Space) -> Space:
    """Return the space for one of the workers that its launcher has placed."""
    return replace(space, study=replace(space.study, launcher=None))


def _seats(folder: Path, workers: int) -> list[Seat]:
    """Share the machine out, with the number of threads that the ladder's runs have had since it began."""
    file = folder / "rungs" / _THREADS
    with lock(folder / ".ladder.lock", wait=True):
        if file.is_file():
            return make_seats(workers, int(read_object(file, "the threads of a ladder's runs")["threads"]))
        seats = make_seats(workers)
        file.parent.mkdir(exist_ok=True)
        write_text(file, json.dumps({"threads": seats[0].threads}))
    return seats


def launch_workers(ladder: Ladder, folder: Path, callback: LadderCallback, workers: int) -> Fleet:
    """Let the launcher place the given number of workers, and wait until they have ended."""
    assert ladder.space.study.launcher is not None
    entrants, sizes = first_candidates(ladder), rung_sizes(ladder)
    fleet = Fleet(ladder.space.study.launcher.create(), ladder.space, folder, workers)

    def tell() -> int:
        callback.on_wait(ladder_progress(ladder, folder, entrants, sizes))
        runs = [place for place in folder.glob("rungs/*/*/seed_*/") if not place.is_symlink()]
        return sum((run / "final").is_dir() or (run / FAILURE).is_file() for run in runs)

    fleet.wait(tell)
    return fleet


class _Launched:
    """Trains nothing: the workers that a launcher had placed have."""

    is_here = False

    def __init__(self, losses: RunLosses, fleet: Fleet) -> None:
        self.losses, self.fleet = losses, fleet

    def train_all(self, runs: Collection[LadderRun], is_late: Callable[[], bool]) -> None:
        """Raise MachineError, with the outcome of the workers, if a run has not ended."""
        if not all(map(self.losses.has_ended, runs)):
            raise MachineError(self.fleet.explain())
