"""The boundary of the command line: whatever a command raises ends in one line and an exit status."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from archlab.cli.streams import abandon, prepare_streams
from archlab.cli.traceback_file import write_traceback
from archlab.errors import ArchlabError, PeerError, describe_error, redact
from archlab.runtime.distributed_env import find_place
from archlab.runtime.outcome import Outcome, iter_causes, outcome_of
from archlab.runtime.signals import Stopped
from archlab.text import shorten, visible


class Carried(Exception):
    """An exception on its way through click, which would otherwise handle it in its own way."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def run(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command and return its exit status; with `debug`, let exceptions through."""
    prepare_streams()
    if not _has_working_directory():  # MKL would end the process at its first product of matrices
        return _end("the working directory no longer exists; change to one that does", Outcome.TRIAL.exit_status)
    with _quiet(debug):
        try:
            command()
            sys.stdout.flush()  # here, and not at the end of the process, where an error would be a traceback
            return 0
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return Outcome.TRIAL.exit_status
        except click.ClickException as error:
            return _end(error.format_message(), Outcome.TRIAL.exit_status, debug)
        except SystemExit:
            raise
        except BaseException as caught:
            return _report(caught.error if isinstance(caught, Carried) else caught, debug)


def _report(error: BaseException, debug: bool) -> int:
    if isinstance(error, PeerError) and not debug:
        return error.status
    outcome = outcome_of(error)
    if isinstance(error, click.Abort) or outcome is Outcome.USER:
        return _report_stop(error)
    if debug:
        raise error
    if not _can_flush():
        abandon(sys.stdout)
    if isinstance(error, ArchlabError):
        return _end(str(error), outcome.exit_status)
    file = write_traceback(error)
    return _end(f"{describe_error(error)}{f'; the traceback is in {file}' if file else ''}", outcome.exit_status)


def _report_stop(error: BaseException) -> int:
    if any(isinstance(each, BrokenPipeError) for each in iter_causes(error)):
        abandon(sys.stdout)
        return 128 + signal.SIGPIPE
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    if not find_place().is_first:  # the first process reports what concerns all
        return _stop_status(number)
    text = "interrupted" if number == signal.SIGINT else str(error)
    return _end("; ".join([text, *getattr(error, "__notes__", [])]), _stop_status(number))


def _stop_status(number: int) -> int:
    """Return the exit status after a signal: a scheduler's, which TERM is in a job of Slurm's, asks to be run again."""
    is_of_scheduler = number == signal.SIGUSR1 or (number == signal.SIGTERM and "SLURM_JOB_ID" in os.environ)
    return Outcome.PREEMPTED.exit_status if is_of_scheduler else 128 + number


def _end(message: str, status: int, debug: bool = False) -> int:
    if debug:
        raise  # noqa: PLE0704 - called while an exception is handled
    with suppress(OSError, ValueError):  # standard error is full, closed or gone, too
        print(f"archlab: {_rank()}{line(message)}", file=sys.stderr, flush=True)
    return status


def _rank() -> str:
    """Return which of several processes this is, but nothing in the first one."""
    place = find_place()
    return "" if place.is_first else f"rank {place.rank}: "


def line(message: str) -> str:
    """Return a message as one line that a terminal shows as it is."""
    text = redact(" ".join(part.strip() for part in message.splitlines() if part.strip()))
    return shorten(visible(text))


def _can_flush() -> bool:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return False
    return True


def _has_working_directory() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


class LineFormatter(logging.Formatter):
    """Records of the log as one line each, whatever texts are in them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        return f"archlab: {line(record.getMessage())}"


@contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Log in lines, and keep warnings of libraries and tracebacks of threads from the terminal, unless `debug`."""
    if debug:
        logging.basicConfig(format="archlab: %(message)s", level=logging.WARNING)
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    hooks = threading.excepthook, sys.unraisablehook, warnings.showwarning, logging.raiseExceptions
    threading.excepthook = _report_thread
    sys.unraisablehook = lambda unraisable: None  # errors in destructors come too late to matter
    if not sys.warnoptions:  # the user may ask for them
        warnings.showwarning = lambda *_, **__: None
    logging.raiseExceptions = False
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook, warnings.showwarning, logging.raiseExceptions = hooks


def _report_thread(caught: threading.ExceptHookArgs) -> None:
    if caught.exc_value is not None and not isinstance(caught.exc_value, SystemExit):
        file = write_traceback(caught.exc_value)
        logging.getLogger(__name__).warning("%s%s", describe_error(caught.exc_value), f"; see {file}" if file else "")
