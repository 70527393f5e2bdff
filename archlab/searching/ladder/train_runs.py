"""The training of a ladder's runs: as many at a time as there are workers, each in a process of its own."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from archlab.config.experiment import read
from archlab.runtime.outcome import Outcome, outcome_of
from archlab.searching.failures import failure_reason
from archlab.searching.ladder.callbacks import LadderCallback
from archlab.searching.ladder.results import FAILURE, LOCK, read_failure, read_loss, write_failure
from archlab.searching.ladder.runs import LadderRun
from archlab.searching.trials.attempts import train_to_its_end
from archlab.searching.trials.callbacks import Judge
from archlab.searching.trials.train_trial import open_here
from archlab.searching.trials.trial_job import OpenRunner, TrialJob
from archlab.storage.locks import lock
from archlab.training.callbacks import Callback

_POLL_S = 1.0  # between looks at the runs that other processes train
InThreads = Callable[[Sequence[Callable[[], None]]], None]


class RunLosses:
    """The results of the runs of a ladder, each read once."""

    def __init__(self, metric: str) -> None:
        self.metric, self._known = metric, dict[Path, float]()

    def of(self, run: LadderRun) -> float | None:
        """Return the loss of a run that has ended, or None; raise ArchlabError for that of another experiment."""
        if run.folder not in self._known and (loss := read_loss(run, self.metric)) is not None:
            self._known[run.folder] = loss
        return self._known.get(run.folder)

    def has_ended(self, run: LadderRun) -> bool:
        """Return whether a run has a loss, or has failed."""
        return bool(read_failure(run)) or self.of(run) is not None


class RunTrainer:
    """Trains runs with a worker for each of `open_runners`, which `in_threads` starts; without it in this thread."""

    is_here = True

    def __init__(
        self,
        losses: RunLosses,
        callback: LadderCallback,
        open_runners: Sequence[OpenRunner] = (open_here,),
        in_threads: InThreads | None = None,
    ) -> None:
        self.losses, self.callback = losses, callback
        self.open_runners, self.in_threads = open_runners, in_threads
        self._tried = set[Path]()

    def train_all(self, runs: Collection[LadderRun], is_late: Callable[[], bool]) -> None:
        """Train unfinished runs, unless time is up, and wait for those of other processes.

        Trunks come before the branches that start from them.
        """
        for group in ([r for r in runs if r.trunk is None], [r for r in runs if r.trunk is not None]):
            while (open_ones := [run for run in group if self._is_open(run)]) and not is_late():
                tried = len(self._tried)
                self._train_each(open_ones, is_late)
                if len(self._tried) == tried:
                    time.sleep(_POLL_S)

    def _is_open(self, run: LadderRun) -> bool:
        return run.folder not in self._tried and not self.losses.has_ended(run)

    def _train_each(self, runs: Iterable[LadderRun], is_late: Callable[[], bool]) -> None:
        waiting = queue.SimpleQueue[LadderRun]()
        for run in runs:
            waiting.put(run)

        def work(open_runner: OpenRunner) -> None:
            with suppress(queue.Empty):
                while not is_late():
                    self._train_unlocked(waiting.get_nowait(), open_runner)

        if self.in_threads is None:
            work(self.open_runners[0])
        else:
            self.in_threads([partial(work, each) for each in self.open_runners])

    def _train_unlocked(self, run: LadderRun, open_runner: OpenRunner) -> None:
        """Train a run, unless another process does."""
        with lock(run.folder / LOCK, wait=False) as acquired:
            if acquired and not self.losses.has_ended(run):
                self._train(run, open_runner)
                self._tried.add(run.folder)

    def _train(self, run: LadderRun, open_runner: OpenRunner) -> None:
        if reason := _earlier_failure(run):
            write_failure(run, reason)
            return
        callback = self.callback.on_run(run.label)
        try:
            train_to_its_end(
                run.label,
                run.folder,
                open_runner,
                lambda runner, save_every_s: runner.train(self._job(run, save_every_s), _Listener(callback)),
            )
        except BaseException as error:
            if outcome_of(error) is not Outcome.TRIAL:
                raise
            write_failure(run, failure_reason(error))
            self.callback.on_result(run.label, None, failure_reason(error))
        else:
            self.callback.on_result(run.label, self.losses.of(run), "")

    def _job(self, run: LadderRun, save_every_s: float | None) -> TrialJob:
        metric, experiment = self.losses.metric, read(run.experiment.resolved)
        return TrialJob(run.label, run.folder, experiment, metric, 1.0, "", save_every_s=save_every_s, force=False)


@dataclass(frozen=True)
class _Listener:
    callback: Callback
    judge: Judge | None = None

    def on_run(self, label: str, values: Mapping[str, object]) -> Callback:
        """Return the callback of the run."""
        return self.callback


def _earlier_failure(run: LadderRun) -> str:
    """Return why a run is not worth its time: another one of its candidate has failed at this rung."""
    for other in sorted(run.folder.parent.glob("seed_*")):
        if other != run.folder and (other / FAILURE).is_file():
            return f"left out: {other.name} has failed"
    return ""
