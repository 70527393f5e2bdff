"""Run one command and see that nothing of it is left: `python -m archlab.runtime.supervise`.

The first line of standard input is an Order; "stop SECONDS" asks the command to end, and the end of the input, which
comes when the process at its other end dies, asks the same. The exit status is that of the command, as a shell's.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from archlab.runtime.outcome import Outcome, outcome_of_exit

GRACE_S = 30.0  # for a last checkpoint, by default
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of linux/prctl.h
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Order:
    """A command, its working directory, the files of its output, the cores it may use, and its seconds."""

    argv: Sequence[str]
    cwd: str
    stdout: str
    stderr: str
    cores: Sequence[int] = ()
    time_limit: float | None = None

    def to_line(self) -> str:
        """Return the order as a line of text."""
        return json.dumps(asdict(self)) + "\n"


class Supervised:
    """A command that runs under a supervisor, and ends if this process does."""

    def __init__(self, order: Order, env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", __name__]
        # A session of its own: a Ctrl-C at the terminal is for whoever started the job, who then decides.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=env, start_new_session=True)
        self._send(order.to_line())

    def stop(self, grace_s: float) -> None:
        """Ask the command to end, unless it has ended; processes left after `grace_s` seconds are killed."""
        self._send(f"stop {grace_s}\n")

    def wait(self) -> Outcome:
        """Return how the command has ended, once it has."""
        status = self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        return outcome_of_exit(status)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # it has ended, and `wait` has closed the pipe
            self._process.stdin.write(line)
            self._process.stdin.flush()


class _Supervisor:
    """A command that runs, and when it is to be asked or made to end, on the clock of `time.monotonic`."""

    def __init__(self, order: Order, control: _Lines) -> None:
        self.control = control
        self.child = _run(order)
        self.limit = time.monotonic() + order.time_limit if order.time_limit else None
        self.kill_at: float | None = None
        self.is_ending = self.timed_out = False

    def wait(self) -> int:
        """Return the exit status of the command once it has ended."""
        while (status := self.child.poll()) is None:
            self._obey()
            self._check_clock()
        _kill_descendants(self.child)
        if self.timed_out and status != 0:
            return Outcome.TIME_LIMIT.exit_status
        return status if status >= 0 else 128 - status

    def _obey(self) -> None:
        deadlines = [at for at in (self.limit, self.kill_at) if at is not None]
        timeout = max(min(deadlines) - time.monotonic(), 0) if deadlines else None
        for line in self.control.read(timeout):
            self.ask_to_end(float(line.split()[1]))
        if self.control.is_closed:
            self.ask_to_end(GRACE_S)

    def _check_clock(self) -> None:
        now = time.monotonic()
        if self.limit is not None and now >= self.limit:
            self.timed_out = True
            self.ask_to_end(GRACE_S)
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = None
            _kill_group(self.child)

    def ask_to_end(self, grace_s: float) -> None:
        """Send SIGTERM, once, and SIGKILL after `grace_s` seconds."""
        if not self.is_ending:
            # Not its children: they would fail under a process that saves its last checkpoint, and torch's launcher
            # sends them the signal itself, of which a second one means "at once".
            self.child.terminate()
        self.is_ending, self.limit = True, None
        self.kill_at = min(self.kill_at or math.inf, time.monotonic() + grace_s)


class _Lines:
    """Lines of a file descriptor, and signals, which wake a process that waits for the next line."""

    def __init__(self, fd: int) -> None:
        self._fd, self._rest, self._open = fd, b"", True
        self.is_closed = False
        self._woken, wakes = os.pipe()
        for each in (self._woken, wakes):
            os.set_blocking(each, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)

    def read(self, timeout: float | None) -> list[str]:
        """Return the lines that have come, after `timeout` seconds at most; `is_closed` is true once, at their end."""
        self.is_closed = False
        ready, _, _ = select.select([self._woken, *([self._fd] if self._open else [])], [], [], timeout)
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._fd in ready:
            data = os.read(self._fd, 4096)
            self._open, self.is_closed = bool(data), not data
            *lines, self._rest = (self._rest + data).split(b"\n")
            return [line.decode() for line in lines]
        return []


def _run(order: Order) -> subprocess.Popen[bytes]:
    if order.cores:
        os.sched_setaffinity(0, order.cores)
    supervisor = os.getpid()

    def die_with_supervisor() -> None:
        # If this process is killed, nobody is left to end the command in any other way.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_DFL)
        if os.getppid() != supervisor:  # it died before the line above
            os._exit(128 + signal.SIGKILL)

    with _open_output(order.stdout) as out, _open_output(order.stderr) as err:
        try:
            return subprocess.Popen(
                list(order.argv),
                cwd=order.cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=die_with_supervisor,  # noqa: PLW1509 - this process has one thread
            )
        except OSError as error:
            err.write(f"{error}\n".encode())
            raise


def _open_output(path: str) -> IO[bytes]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return open(path, "ab", buffering=0)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only zombies are left
        os.killpg(child.pid, signal.SIGKILL)


def _kill_descendants(child: subprocess.Popen[bytes]) -> None:
    """Kill processes left behind by a command, in its group or in their own sessions."""
    _kill_group(child)
    # As a subreaper this process is the parent of every process whose own has died.
    while children := _children():
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main() -> int:
    """Supervise the command that standard input orders; return its exit status."""
    # Whoever signals all processes of a job, as Slurm does, signals the command itself.
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler no signal wakes
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = _Lines(sys.stdin.fileno())
    lines: list[str] = []
    while not lines:
        lines = control.read(None)
        if control.is_closed:
            return Outcome.KILLED.exit_status
    try:
        supervisor = _Supervisor(Order(**json.loads(lines[0])), control)
        for line in lines[1:]:
            supervisor.ask_to_end(float(line.split()[1]))
        return supervisor.wait()
    except OSError as error:
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main())
