"""Several workers of a search in one process, whose trials are processes of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from archlab.searching.space.search_space import Space
from archlab.searching.study.search_dir import STUDY_LOCK
from archlab.searching.study.study import SearchStudy
from archlab.searching.study.workers import hold_lease
from archlab.searching.trials.callbacks import SearchCallback
from archlab.searching.trials.one_at_a_time import one_at_a_time
from archlab.searching.trials.process_pool import ProcessPool
from archlab.searching.trials.trial_resources import Seat, make_seats
from archlab.searching.worker import SearchResult, SearchWorker
from archlab.storage.locks import lock

_THREADS = "threads"  # user attribute of the study: another number of threads may round otherwise


def run_pool(space: Space, folder: Path, total: int, callback: SearchCallback, workers: int) -> SearchResult:
    """Run the trials of a search with several workers, none of which waits for another, and return its result.

    Raises the exception of one of them, after the trials of all have saved a checkpoint.
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
    """Run the trials of a search with several workers, and return one of them."""
    callback = one_at_a_time(callback)
    every = [SearchWorker(space, folder, total, callback) for _ in range(workers)]
    seats = _seats(every[0].study, folder, workers)
    pool = ProcessPool(folder, seats, space.plugins, space.study.time_limit)
    for worker, open_runner in zip(every, pool.open_runners, strict=True):
        worker.open_runner = open_runner
    every[0].begin()
    pool.run([partial(_work, worker, folder) for worker in every])
    return every[0]


def _seats(study: SearchStudy, folder: Path, workers: int) -> list[Seat]:
    """Share the machine out, with the number of threads that the search's trials have had since it began."""
    with lock(folder / STUDY_LOCK, wait=True):
        seats = make_seats(workers, study.user_attrs.get(_THREADS))
        if _THREADS not in study.user_attrs:
            study.set_user_attr(_THREADS, seats[0].threads)
    return seats


def _work(worker: SearchWorker, folder: Path) -> None:
    with hold_lease(folder):
        worker.work()
