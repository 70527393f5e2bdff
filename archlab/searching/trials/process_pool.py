"""Workers on this machine, each of which has one trial at a time in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from archlab.searching.trials.exclusive_trial import hold_room
from archlab.searching.trials.trial_job import TrialRunner
from archlab.searching.trials.trial_processes import TrialProcesses
from archlab.searching.trials.trial_resources import Seat


class ProcessPool:
    """Gives every worker of a search a seat on this machine: `open_runners` has one for each, to open its trials with.

    `plugins` are imported in the processes, and a trial ends after `time_limit` seconds at the latest.
    """

    def __init__(
        self, folder: Path, seats: Sequence[Seat], plugins: Sequence[str] = (), time_limit: float | None = None
    ) -> None:
        self.processes = TrialProcesses(plugins)
        self.open_runners = [_OpenProcess(self.processes, seat, folder, time_limit) for seat in seats]

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run each worker in a thread of its own, until all are done.

        Raises the exception of one of them, after the trials of all have saved a checkpoint.
        """
        with ThreadPoolExecutor(len(tasks), thread_name_prefix="worker") as threads:
            futures = [threads.submit(task) for task in tasks]
            try:
                _wait(futures)
            except BaseException:
                self.processes.stop()
                _wait_for_checkpoints(futures, self.processes)
                raise


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
