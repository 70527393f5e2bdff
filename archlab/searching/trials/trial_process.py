"""The process of a trial, as its worker asks it and hears it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna

from archlab.config.experiment import load
from archlab.errors import ArchlabError, ConfigError, MachineError, TrainingError
from archlab.runtime.outcome import Outcome
from archlab.runtime.signals import Stopped
from archlab.searching.trials.callbacks import Judge, TrialPaused
from archlab.searching.trials.messages import format_job, format_request, receive, send
from archlab.searching.trials.trial_child import OUTPUT
from archlab.searching.trials.trial_job import TrialJob, TrialListener, TrialOutput
from archlab.searching.variants.cost_request import CostRequest, Costs
from archlab.training.callbacks import Callback

_POLL_S = 0.2
# Exceptions of the trial's process that are raised again here.
_RAISED: dict[str, Callable[..., BaseException]] = {
    "pruned": optuna.TrialPruned,
    "paused": TrialPaused,
    "problem": ConfigError,
}
_GRACE_S = 60.0  # to save a checkpoint in


class TrialLost(ArchlabError):
    """The process of a trial has ended before the trial: `by_itself`, or asked to, with a checkpoint saved."""

    def __init__(self, reason: str, by_itself: bool) -> None:
        super().__init__(reason)
        self.by_itself = by_itself


class TrialProcess:
    """Counts the costs of a trial, and trains it, in a process of its own.

    Each call raises the exception of the other process, TrialLost if the process ended early, and TrainingError if the
    trial has taken longer than its time limit.
    """

    def __init__(
        self,
        stopping: threading.Event,
        label: str,
        folder: Path,
        process: BaseProcess,
        connection: Connection,
        time_limit: float | None,
    ) -> None:
        self.stopping, self.label, self.folder = stopping, label, folder
        self.process, self.connection, self.time_limit = process, connection, time_limit
        self.listener: TrialListener | None = None
        self.callback = Callback()
        self.deadline = time.monotonic() + time_limit if time_limit else float("inf")
        self.kill_at = float("inf")
        self.tells: dict[str, Callable[..., None]] = {
            "run": self._run,
            "start": lambda tree, step: self.callback.on_start(load(tree), step),
            "call": lambda name, *content: getattr(self.callback, name)(*content),
            "has_judge": lambda: self._answer(self._judge is not None),
            "report": self._report,
            "should_prune": lambda: self._answer(bool(self._judge and self._judge.should_prune())),
            "log": lambda name, level, text: logging.getLogger(name).log(level, "%s: %s", self.label, text),
        }

    @property
    def _judge(self) -> Judge | None:
        return self.listener.judge if self.listener else None

    def count(self, request: CostRequest) -> Costs:
        """Count costs there."""
        return dict(self._ask("costs", format_request(request))[0])

    def train(self, job: TrialJob, listener: TrialListener) -> TrialOutput:
        """Train the trial there."""
        self.listener = listener
        return TrialOutput(*self._ask("train", format_job(job)))

    def _ask(self, question: str, content: str) -> list[Any]:
        try:
            send(self.connection, question, content)
            return self._hear()
        except EOFError:
            raise self._lost() from None
        except KeyboardInterrupt:  # also a callback's wish, of which the process does not know yet
            self._ask_to_stop()
            raise

    def _hear(self) -> list[Any]:
        while True:
            self._watch_time()
            if not self.connection.poll(_POLL_S):
                continue
            kind, content = receive(self.connection)
            if kind == "done":
                return content
            if kind in _RAISED:
                raise _RAISED[kind](*content)
            if kind == "failed":
                raise self._failure(*content)
            self.tells[kind](*content)

    def _ask_to_stop(self) -> None:
        """Let the trial save a checkpoint, and wait for its end."""
        if self.process.is_alive() and self.kill_at == float("inf"):
            self.process.terminate()
            self.process.join(_GRACE_S)

    def _answer(self, value: bool) -> None:
        send(self.connection, "answer", value)

    def _run(self, label: str, values: dict[str, Any]) -> None:
        assert self.listener is not None
        self.callback = self.listener.on_run(label, values)

    def _report(self, value: float, step: int) -> None:
        if self._judge is not None:
            self._judge.report(value, step)

    def _watch_time(self) -> None:
        now = time.monotonic()
        if now > self.deadline:
            self.process.kill()
            raise TrainingError(f"ran longer than study.time_limit, {self.time_limit:g} s")
        if self.stopping.is_set() and self.kill_at == float("inf"):
            self.kill_at = now + _GRACE_S
            self.process.terminate()
        if now > self.kill_at:
            self.process.kill()

    def _failure(self, outcome: str, reason: str) -> BaseException:
        if outcome == Outcome.TRIAL:
            return TrainingError(reason)
        if outcome == Outcome.MACHINE:
            return MachineError(reason)
        if self.stopping.is_set():
            return Stopped(signal.SIGTERM)
        return TrialLost(f"its process was asked to stop{f': {reason}' if reason else ''}", by_itself=False)

    def _lost(self) -> BaseException:
        """Return the outcome of a process that ended without a message."""
        self.process.join(_POLL_S)
        status = self.process.exitcode
        if self.stopping.is_set():
            return Stopped(signal.SIGTERM)
        if status is not None and status < 0:
            return TrialLost(f"its process was ended by {signal.Signals(-status).name}", by_itself=True)
        return TrainingError(f"its process ended by itself with status {status}; see {self.folder / OUTPUT}")
