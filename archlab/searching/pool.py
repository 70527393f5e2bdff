"""Several workers of a search in one process, whose trials are processes of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from archlab.searching.space.search_space import Space
from archlab.searching.study.study import SearchStudy
from archlab.searching.study.workers import hold_lease
from archlab.searching.trials.alone import hold_room
from archlab.searching.trials.callbacks import SearchCallback
from archlab.searching.trials.one_at_a_time import OneAtATime
from archlab.searching.trials.seats import Seat, make_seats
from archlab.searching.trials.trial_job import TrialRunner
from archlab.searching.trials.trial_processes import TrialProcesses
from archlab.searching.worker import SearchResult, SearchWorker
from archlab.storage.locks import lock

_THREADS = "threads"  # user attribute of the study: another number of threads may round otherwise


def run_pool(space: Space, folder: Path, total: int, callback: SearchCallback, workers: int) -> SearchResult:
    """Run the trials of a search with several workers, none of which waits for another, and return its result.

    Raises what one of them raises, after the trials of all have saved a checkpoint.
    """
    worker = _work_in_pool(space, folder, total, callback, workers)
    with hold_lease(folder):
        return worker.finish()


def run_one_of_many(space: Space, folder: Path, total: int, callback: SearchCallback) -> SearchResult | None:
    """Run trials until there is none to begin; the last of all workers to leave returns the result of the search."""
    worker = _work_in_pool(space, folder, total, callback, 1)
    with hold_lease(folder):
        return worker.finish() if worker.is_last() else None


def _work_in_pool(space: Space, folder: Path, total: int, callback: SearchCallback, workers: int) -> SearchWorker:
    """Run the trials of a search with several workers, and return one of them.

    Raises what one of them raises, after the trials of all have saved a checkpoint.
    """
    processes, callback = TrialProcesses(space.plugins), OneAtATime(callback)
    every = [SearchWorker(space, folder, total, callback) for _ in range(workers)]
    for worker, seat in zip(every, _seats(every[0].study, folder, workers), strict=True):
        worker.open_runner = _OpenProcess(processes, seat, folder, space.study.time_limit)
    every[0].begin()
    with ThreadPoolExecutor(workers, thread_name_prefix="worker") as pool:
        futures = [pool.submit(_work, worker, folder) for worker in every]
        try:
            _wait(futures)
        except BaseException:
            processes.stop()
            _wait_for_checkpoints(futures, processes)
            raise
    return every[0]


def _seats(study: SearchStudy, folder: Path, workers: int) -> list[Seat]:
    """Share the machine out, with the number of threads that the search's trials have had since it began."""
    with lock(folder / ".study.lock", wait=True):
        seats = make_seats(workers, study.user_attrs.get(_THREADS))
        if _THREADS not in study.user_attrs:
            study.set_user_attr(_THREADS, seats[0].threads)
    return seats


class _OpenProcess:
    """Gives each trial a process on the seat of a worker."""

    def __init__(self, processes: TrialProcesses, seat: Seat, folder: Path, time_limit: float | None) -> None:
        self.processes, self.seat, self.folder, self.time_limit = processes, seat, folder, time_limit

    @contextmanager
    def __call__(self, label: str, folder: Path, *, alone: bool) -> Iterator[TrialRunner]:
        """Start the process of a trial as soon as there is room."""
        with (
            hold_room(self.folder, alone=alone, is_stopping=self.processes.stopping.is_set),
            self.processes.open(label, folder, self.seat, self.time_limit) as process,
        ):
            yield process


def _work(worker: SearchWorker, folder: Path) -> None:
    with hold_lease(folder):
        worker.work()


def _wait(futures: Iterable[Future[None]]) -> None:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


def _wait_for_checkpoints(futures: Iterable[Future[None]], processes: TrialProcesses) -> None:
    try:
        wait(futures)
    except BaseException:  # the user does not wait
        processes.kill()
        raise
