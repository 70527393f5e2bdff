"""The process of one trial: it trains, reports to its worker, and exits; a crash affects this trial only."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import optuna
import torch

from archlab.config.experiment import Experiment
from archlab.config.plugins import load_plugin
from archlab.errors import ConfigError, one_line
from archlab.runtime.outcome import outcome_of
from archlab.runtime.shares import DEVICES
from archlab.runtime.signals import is_stopping, stop_on_signals
from archlab.searching.failures import exits_fail, failure_reason
from archlab.searching.trials.callbacks import Judge, TrialPaused
from archlab.searching.trials.messages import parse_job, parse_request, receive, send
from archlab.searching.trials.train_trial import train_trial
from archlab.searching.trials.trial_job import TrialJob
from archlab.searching.trials.trial_resources import Seat
from archlab.searching.variants.cost_request import count_costs
from archlab.training.callbacks import Callback

OUTPUT = "output.log"  # the output of the process, in the trial's directory
_PR_SET_PDEATHSIG = 1


def run_child(connection: Connection, folder: str, plugins: Sequence[str], seat: Seat) -> None:
    """Serve the connection's request on a share of the machine, with a trial's directory for the output."""
    _bind_to_worker()
    _sit_down(seat)
    message: tuple[Any, ...] | None
    with stop_on_signals():
        try:
            with _output_to(Path(folder) / OUTPUT), _logging_to(connection), exits_fail():
                for plugin in plugins:  # trusted when the search's own process imported them
                    load_plugin(plugin, Path())
                message = _serve(connection)
        except BaseException as error:
            message = _describe(error)
    if message is not None:
        _tell(connection, *message)


def _serve(connection: Connection) -> tuple[Any, ...] | None:
    """Count costs as often as asked, then train; return the final message, if any."""
    while True:
        try:
            question, (content,) = receive(connection)
        except EOFError:  # no further question
            return None
        if question == "train":
            return _train(parse_job(content), connection)
        _tell(connection, *_count(content))


def _count(content: str) -> tuple[Any, ...]:
    try:
        return "done", dict(count_costs(parse_request(content)))
    except ConfigError as error:  # a search for a model of a given cost continues
        if is_stopping():
            raise
        return "problem", error.path, error.problem, error.source, error.key


def _tell(connection: Connection, kind: str, *content: Any) -> None:
    try:
        send(connection, kind, *content)
    except EOFError:  # the worker has died, and others take the trial over: nothing more is written
        os._exit(1)


def _bind_to_worker() -> None:
    """End with the process that started this one, and leave Ctrl-C in a terminal to it."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _sit_down(seat: Seat) -> None:
    if seat.cores:
        os.sched_setaffinity(0, seat.cores)
    if seat.gpus is not None:  # before torch looks for them
        os.environ[DEVICES] = ",".join(seat.gpus)
    torch.set_num_threads(seat.threads)


def _train(job: TrialJob, connection: Connection) -> tuple[Any, ...]:
    output = train_trial(job, _Teller(connection))
    return "done", output.metrics, output.attrs


def _describe(error: BaseException) -> tuple[Any, ...]:
    """Return the message for an exception."""
    if isinstance(error, optuna.TrialPruned):
        return "pruned", one_line(error)
    if isinstance(error, TrialPaused):
        return "paused", one_line(error)
    notes = getattr(error, "__notes__", [])
    return "failed", outcome_of(error), failure_reason(error) if isinstance(error, Exception) else "; ".join(notes)


@dataclass(frozen=True)
class _Teller:
    """Reports training to the worker, and asks it whether to continue."""

    connection: Connection

    @property
    def judge(self) -> Judge | None:
        """The worker's, if it has one."""
        _tell(self.connection, "has_judge")
        return _Asker(self.connection) if receive(self.connection)[1][0] else None

    def on_run(self, label: str, values: Mapping[str, object]) -> Callback:
        """Report the start of a run."""
        _tell(self.connection, "run", label, dict(values))
        return _CallbackTeller(self.connection)


@dataclass(frozen=True)
class _Asker:
    connection: Connection

    def report(self, value: float, step: int) -> None:
        """Report an evaluation."""
        _tell(self.connection, "report", value, step)

    def should_prune(self) -> bool:
        """Ask the worker's judge."""
        _tell(self.connection, "should_prune")
        return bool(receive(self.connection)[1][0])


class _CallbackTeller(Callback):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Forward, the experiment as YAML data."""
        _tell(self.connection, "start", {**experiment.resolved, "plugins": []}, step)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Forward."""
        _tell(self.connection, "call", "on_step", dict(record))

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Forward."""
        _tell(self.connection, "call", "on_eval", dict(record))

    def on_eval_progress(self, done: int, total: int | None) -> None:
        """Forward."""
        _tell(self.connection, "call", "on_eval_progress", done, total)

    def on_end(self) -> None:
        """Forward."""
        _tell(self.connection, "call", "on_end")


class _LogTeller(logging.Handler):
    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Forward, as text."""
        _tell(self.connection, "log", record.name, record.levelno, record.getMessage())


@contextmanager
def _logging_to(connection: Connection) -> Iterator[None]:
    logging.getLogger().handlers = [_LogTeller(connection)]
    yield


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Redirect the output of the process, and the trace of a crash, to a file, which is removed if empty.

    The terminal has the display of the search.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable(descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fstat(descriptor).st_size == 0:
            with suppress(FileNotFoundError):
                file.unlink()
