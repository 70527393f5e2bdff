"""How a job ended and whose doing it was, as a value, as an exit status, and of an exception."""

from __future__ import annotations

import errno
import re
import signal
import sys
from collections.abc import Iterator
from enum import StrEnum

from archlab.errors import ArchlabError, ConfigError, MachineError, TrainingError
from archlab.runtime.signals import is_stopping


class Outcome(StrEnum):
    """How a job ended.

    After TRIAL the same job would end the same way; after any other outcome but DONE it is to be run again.
    """

    DONE = "done"
    TRIAL = "trial"  # of its own: a mistake, a loss that is not finite, shapes that do not fit, its memory
    MACHINE = "machine"  # a full disk, an unavailable database, a lost GPU
    USER = "user"  # an interrupt, or a terminal that was closed
    PREEMPTED = "preempted"  # stopped by a scheduler, to be run again
    KILLED = "killed"  # by the kernel, as when the machine's memory is full, or by a fault of native code
    TIME_LIMIT = "time_limit"

    @property
    def exit_status(self) -> int:
        """The exit status of a process that ended so."""
        return _EXIT_STATUS[self]


# 75 is EX_TEMPFAIL of sysexits.h, 85 HTCondor's "checkpointed, run it again", 124 that of timeout(1), and 128 + N what
# a shell makes of signal N.
_EXIT_STATUS = {
    Outcome.DONE: 0,
    Outcome.TRIAL: 2,
    Outcome.MACHINE: 75,
    Outcome.USER: 128 + signal.SIGINT,
    Outcome.PREEMPTED: 85,
    Outcome.KILLED: 128 + signal.SIGKILL,
    Outcome.TIME_LIMIT: 124,
}
_CANNOT_START = (126, 127)  # of a shell: the program cannot be executed, or is not found
_OF_THE_USER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


def outcome_of_exit(status: int) -> Outcome:
    """Return the outcome that an exit status means; -N is a process that signal N ended, as in subprocess."""
    for outcome, own in _EXIT_STATUS.items():
        if status == own:
            return outcome
    number = -status if status < 0 else status - 128
    if number in _OF_THE_USER:
        return Outcome.USER
    if status in _CANNOT_START:
        return Outcome.MACHINE
    return Outcome.KILLED if 0 < number <= max(signal.valid_signals()) else Outcome.TRIAL


def outcome_of(error: BaseException) -> Outcome:
    """Return whose failure an exception is: TRIAL unless it, or an exception that led to it, is another's.

    While a signal stops the process every exception is the user's.
    """
    if is_stopping():  # a library that was interrupted may have raised a different error
        return Outcome.USER
    return next(filter(None, map(_outcome, iter_causes(error))), Outcome.TRIAL)


def iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that led to it, the latest first."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        # The compiler of torch wraps "from None", and keeps the cause as `inner_exception`.
        inner = getattr(one, "inner_exception", None)
        waiting += [led for led in (one.__context__, inner, one.__cause__) if isinstance(led, BaseException)]


def _outcome(error: BaseException) -> Outcome | None:
    """Return whose failure one exception is by itself, or None if it does not say."""
    if not isinstance(error, Exception) or isinstance(error, BrokenPipeError):
        return Outcome.USER  # KeyboardInterrupt, SystemExit, or a reader such as `head` that has left
    if isinstance(error, MachineError) or is_machine_error(error):
        return Outcome.MACHINE
    return Outcome.TRIAL if isinstance(error, TrainingError | ConfigError) or is_out_of_memory(error) else None


_MACHINE_ERRNO = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV),
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOLCK, errno.EBUSY, errno.ETXTBSY),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EREMOTEIO),
}
# An exception of one of these types exists only where its module is loaded: none is imported in order to ask.
_MACHINE_TYPES = {
    "builtins": ("ConnectionError", "TimeoutError"),
    "sqlite3": ("OperationalError",),
    "sqlalchemy.exc": ("OperationalError", "InterfaceError", "TimeoutError", "DisconnectionError"),
    "optuna.exceptions": ("StorageInternalError",),
    "concurrent.futures.process": ("BrokenProcessPool",),
}
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers raise no OSError, but Rust's text of one
_LOST_WORKER = re.compile(r"^DataLoader worker \(pid")  # torch has no type for a worker that was killed


def is_machine_error(error: BaseException) -> bool:
    """Return whether an exception is about the machine and not about the program."""
    types = (getattr(sys.modules.get(module), name, None) for module, own in _MACHINE_TYPES.items() for name in own)
    if _errno(error) in _MACHINE_ERRNO or isinstance(error, tuple(known for known in types if known is not None)):
        return True
    if isinstance(error, ArchlabError) or "torch" not in sys.modules:
        return False

    from archlab.runtime.private_apis import is_compiler_failure, is_lost_accelerator

    is_lost_worker = type(error) is RuntimeError and _LOST_WORKER.match(str(error)) is not None
    return is_lost_worker or is_compiler_failure(error) or is_lost_accelerator(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on a GPU or on the CPU."""
    if isinstance(error, MemoryError) or _errno(error) == errno.ENOMEM:
        return True
    if "torch" not in sys.modules:
        return False

    from archlab.runtime import private_apis

    return private_apis.is_out_of_memory(error)


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = None if isinstance(error, ArchlabError) else _RUST_ERRNO.search(str(error))
    return int(found[1]) if found else None
