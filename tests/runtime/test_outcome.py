"""Whose failure an exception is, and what an exit status means."""

from __future__ import annotations

import errno
import signal
import sqlite3
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import optuna
import pytest
import sqlalchemy.exc
import torch
from safetensors.torch import save_file
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

from archlab import ArchlabError, ConfigError, MachineError, TrainingError
from archlab.runtime.outcome import Outcome, outcome_of, outcome_of_exit
from archlab.runtime.signals import Stopped, stop_on_signals


def accelerator_error(code: int) -> torch.AcceleratorError:
    error = torch.AcceleratorError("CUDA error")
    error.error_code = code
    return error


def raised(error: BaseException, *causes: BaseException, hidden: bool = False) -> BaseException:
    """Raise each cause, then the error, while the one before is handled."""
    try:
        try:
            if causes:
                raise raised(*causes)
        except BaseException:
            if hidden:
                raise error from None
            raise error  # noqa: B904 - as libraries do
    except BaseException as caught:
        return caught
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")
DATABASE = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TrainingError("step 3: the loss is nan"), Outcome.TRIAL),
        (ConfigError("model", "dim 3 is odd"), Outcome.TRIAL),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), Outcome.TRIAL),
        (MemoryError(), Outcome.TRIAL),
        (torch.OutOfMemoryError("CUDA out of memory"), Outcome.TRIAL),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Outcome.TRIAL),
        (accelerator_error(2), Outcome.TRIAL),
        (accelerator_error(710), Outcome.TRIAL),
        (FileNotFoundError(errno.ENOENT, "No such file"), Outcome.TRIAL),
        (optuna.TrialPruned(), Outcome.TRIAL),
        (MachineError("the disk is full"), Outcome.MACHINE),
        (FULL, Outcome.MACHINE),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Outcome.MACHINE),
        (OSError(errno.EROFS, "Read-only file system"), Outcome.MACHINE),
        (PermissionError(errno.EACCES, "Permission denied"), Outcome.MACHINE),
        (OSError(errno.EMFILE, "Too many open files"), Outcome.MACHINE),
        (OSError(errno.EIO, "Input/output error"), Outcome.MACHINE),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Outcome.MACHINE),
        (DATABASE, Outcome.MACHINE),
        (optuna.exceptions.StorageInternalError("An exception is raised during the commit"), Outcome.MACHINE),
        (sqlite3.OperationalError("database or disk is full"), Outcome.MACHINE),
        (BrokenProcessPool("a child process terminated abruptly"), Outcome.MACHINE),
        (RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly"), Outcome.MACHINE),
        (InvalidCxxCompiler(), Outcome.MACHINE),
        (CppCompileError(["g++"], "internal compiler error: Segmentation fault"), Outcome.MACHINE),
        (CppCompileError(["g++"], "/a/x.h:3:10: fatal error: omp.h: No such file or directory"), Outcome.MACHINE),
        (CppCompileError(["g++"], "/a/x.cpp: In f\n/a/x.cpp:7:5: error: 'tmp9' was not declared"), Outcome.TRIAL),
        (accelerator_error(214), Outcome.MACHINE),  # ECC
        (accelerator_error(999), Outcome.MACHINE),
        (KeyboardInterrupt(), Outcome.USER),
        (Stopped(signal.SIGTERM), Outcome.USER),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), Outcome.USER),
    ],
)
def test_whose_failure(error: BaseException, outcome: Outcome) -> None:
    assert outcome_of(error) == outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InductorError(FULL, None), Outcome.MACHINE),
        (BackendCompilerFailed("inductor", InvalidCxxCompiler(), None), Outcome.MACHINE),
        (InductorError(RuntimeError("shapes"), None), Outcome.TRIAL),
        (raised(RuntimeError("cannot write"), FULL), Outcome.MACHINE),
        (raised(ArchlabError("run: cannot be written"), FULL, hidden=True), Outcome.MACHINE),
        (raised(ArchlabError("study.db: cannot be used"), RuntimeError(), DATABASE), Outcome.MACHINE),
        (raised(ArchlabError("text.txt: no such file"), FileNotFoundError(errno.ENOENT, "x")), Outcome.TRIAL),
        (raised(TrainingError("the loss is nan"), PermissionError(errno.EACCES, "a cache")), Outcome.TRIAL),
    ],
)
def test_what_led_to_an_exception_counts(error: BaseException, outcome: Outcome) -> None:
    assert outcome_of(error) == outcome


def test_an_error_number_in_the_text_of_an_exception(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="os error 2") as caught:
        save_file({"x": torch.ones(1)}, tmp_path / "missing" / "x.safetensors")
    assert outcome_of(caught.value) == Outcome.TRIAL
    assert outcome_of(type(caught.value)("I/O error: No space left on device (os error 28)")) == Outcome.MACHINE


def test_causes_that_lead_in_a_circle() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__context__, other.__context__ = other, one
    assert outcome_of(one) == Outcome.TRIAL


@pytest.mark.parametrize("outcome", Outcome)
def test_an_exit_status_means_the_outcome_that_has_it(outcome: Outcome) -> None:
    assert outcome_of_exit(outcome.exit_status) == outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (1, Outcome.TRIAL),
        (3, Outcome.TRIAL),
        (127, Outcome.MACHINE),
        (129, Outcome.USER),
        (141, Outcome.USER),
        (143, Outcome.USER),
        (-signal.SIGTERM, Outcome.USER),
        (-signal.SIGKILL, Outcome.KILLED),
        (-signal.SIGSEGV, Outcome.KILLED),
        (134, Outcome.KILLED),
        (255, Outcome.TRIAL),
    ],
)
def test_other_exit_statuses(status: int, outcome: Outcome) -> None:
    assert outcome_of_exit(status) == outcome


def test_an_error_while_a_signal_stops_the_process_is_the_users() -> None:
    error = ConfigError("model", "is wrong")  # as of a library that was interrupted during its work
    with stop_on_signals():
        assert outcome_of(error) is Outcome.TRIAL
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert outcome_of(error) is Outcome.USER
    assert outcome_of(error) is Outcome.TRIAL
