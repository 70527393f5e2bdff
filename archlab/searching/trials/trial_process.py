"""Trials in processes of their own, forked from one that has torch imported, so that each starts at once.

A crash, an exit, a leak or a hang of a trial costs that trial only.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import optuna

from archlab.config.experiment import load
from archlab.errors import ArchlabError, MachineError, TrainingError
from archlab.runtime.outcome import Outcome
from archlab.runtime.signals import Stopped
from archlab.searching.trials.seats import Seat
from archlab.searching.trials.trial_child import OUTPUT, run_child
from archlab.searching.trials.trial_job import TrialJob, TrialListener, TrialOutput
from archlab.searching.trials.wire import format_job, receive, send
from archlab.training.callbacks import Callback

_CHILD = "archlab.searching.trials.trial_child"
_POLL_S = 0.2
_GRACE_S = 60.0  # to save a checkpoint in


class TrialLost(ArchlabError):
    """The process of a trial has ended before the trial: `by_itself`, or asked to, with a checkpoint saved."""

    def __init__(self, reason: str, by_itself: bool) -> None:
        super().__init__(reason)
        self.by_itself = by_itself


class TrialProcesses:
    """Trains trials of one search, each in its own process; several threads may call it at a time."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([_CHILD])
        self.stopping = threading.Event()
        self._running: set[BaseProcess] = set()

    def train(self, job: TrialJob, listener: TrialListener, seat: Seat, time_limit: float | None = None) -> TrialOutput:
        """Train a trial as `train_trial` does, and raise what that raises.

        Raises TrialLost if the process ended early, and TrainingError if it took longer than `time_limit` seconds.
        """
        if self.stopping.is_set():
            raise Stopped(signal.SIGTERM)
        job.folder.mkdir(parents=True, exist_ok=True)
        own, other = self.context.Pipe()
        process = self.context.Process(target=run_child, args=(other, format_job(job), seat))
        process.start()
        other.close()
        self._running.add(process)
        conversation = _Conversation(self, job, listener, process, own, time_limit)
        try:
            return conversation.hear()
        except KeyboardInterrupt:  # also a callback's wish, of which the process does not know yet
            conversation.ask_to_stop()
            raise
        finally:
            _end(process)
            self._running.discard(process)
            own.close()

    def stop(self) -> None:
        """Ask every trial to save a checkpoint and end, and start no other."""
        self.stopping.set()  # which the worker of each trial sees, and tells its process

    def kill(self) -> None:
        """End every trial at once."""
        self.stopping.set()
        for process in tuple(self._running):
            process.kill()


def _end(process: BaseProcess) -> None:
    """Wait for a process that has said its last word, or is not to be heard any more."""
    process.join(1.0)
    if process.is_alive():
        process.kill()
        process.join()


class _Conversation:
    """What the worker of a trial hears from its process, and answers."""

    def __init__(
        self,
        owner: TrialProcesses,
        job: TrialJob,
        listener: TrialListener,
        process: BaseProcess,
        connection: Connection,
        time_limit: float | None,
    ) -> None:
        self.owner, self.job, self.listener = owner, job, listener
        self.process, self.connection = process, connection
        self.judge, self.callback = listener.judge, Callback()
        self.time_limit = time_limit
        self.deadline = time.monotonic() + time_limit if time_limit else float("inf")
        self.kill_at = float("inf")
        self.answers: dict[str, Callable[..., None]] = {
            "run": self._run,
            "start": lambda tree, step: self.callback.on_start(load(tree), step),
            "call": lambda name, *content: getattr(self.callback, name)(*content),
            "has_judge": lambda: send(self.connection, "answer", self.judge is not None),
            "report": self._report,
            "should_prune": lambda: send(self.connection, "answer", bool(self.judge and self.judge.should_prune())),
            "log": lambda name, level, text: logging.getLogger(name).log(level, "%s: %s", self.job.label, text),
        }

    def hear(self) -> TrialOutput:
        """Return what the trial has reached."""
        while True:
            if not self.connection.poll(_POLL_S):
                self._watch_time()
                continue
            try:
                kind, content = receive(self.connection)
            except EOFError:
                raise self._lost() from None
            if kind == "done":
                return TrialOutput(*content)
            if kind == "pruned":
                raise optuna.TrialPruned(content[0])
            if kind == "failed":
                raise self._failure(*content)
            self.answers[kind](*content)
            self._watch_time()

    def ask_to_stop(self) -> None:
        """Let the trial save a checkpoint, and hear it to its end."""
        if self.process.is_alive() and self.kill_at == float("inf"):
            self.process.terminate()
            self.process.join(_GRACE_S)

    def _run(self, label: str, values: dict[str, Any]) -> None:
        self.callback = self.listener.on_run(label, values)

    def _report(self, value: float, step: int) -> None:
        if self.judge is not None:
            self.judge.report(value, step)

    def _watch_time(self) -> None:
        now = time.monotonic()
        if now > self.deadline:
            self.process.kill()
            raise TrainingError(f"ran longer than study.time_limit, {self.time_limit:g} s")
        if self.owner.stopping.is_set() and self.kill_at == float("inf"):
            self.kill_at = now + _GRACE_S
            self.process.terminate()
        if now > self.kill_at:
            self.process.kill()

    def _failure(self, outcome: str, reason: str) -> BaseException:
        if outcome == Outcome.TRIAL:
            return TrainingError(reason)
        if outcome == Outcome.MACHINE:
            return MachineError(reason)
        if self.owner.stopping.is_set():
            return Stopped(signal.SIGTERM)
        return TrialLost(f"its process was asked to stop{f': {reason}' if reason else ''}", by_itself=False)

    def _lost(self) -> BaseException:
        """Return what became of a process that ended without a word."""
        self.process.join(_POLL_S)
        status = self.process.exitcode
        if self.owner.stopping.is_set():
            return Stopped(signal.SIGTERM)
        if status is not None and status < 0:
            return TrialLost(f"its process was ended by {signal.Signals(-status).name}", by_itself=True)
        return TrainingError(f"its process ended by itself with status {status}; see {self.job.folder / OUTPUT}")
