"""A terminal for tests: what a person sees after the control sequences that rich writes, and commands run in one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

# Before a key is pressed: Python forgets a Ctrl-C that comes just before it waits for a key, as no person's does.
_PAUSE_S = 0.03
_SILENCE_S = 60.0  # after which a program waits for something that does not come
_TOKEN = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n])")


def screen(written: str, width: int) -> list[str]:
    """Return the lines of a terminal, those that have scrolled away included; longer lines wrap."""
    lines, row, column = [""], 0, 0
    for parameter, command, back, down, character in _TOKEN.findall(written):
        if command == "A":
            row = max(row - int(parameter or 1), 0)
        elif command == "K":
            lines[row] = "" if parameter == "2" else lines[row][:column]
        elif back:
            column = 0
        elif down or (character and column == width):
            row, column = row + 1, 0  # a terminal takes a new line for a return, too
            lines += [""] * (row - len(lines) + 1)
        if character:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def _call(function: Callable[[], None], environment: dict[str, str]) -> NoReturn:
    """Call a function with the standard streams of a new process, and end this one."""
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process of pytest's own workers may not have
    status = 1
    try:
        function()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # no test of the process that was copied may continue here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def run_in_terminal(
    command: Sequence[str] | Callable[[], None],
    folder: Path,
    width: int,
    *,
    term: str = "xterm-256color",
    keys: Sequence[tuple[str, bytes]] = (),
    status: int = 0,
) -> str:
    """Run a program, or a function in a copy of this process, in a terminal of a width; return all that it wrote.

    `keys` are pressed in turn, each once its text has been written since the last.
    """
    process, terminal = pty.fork()
    if not process:
        os.chdir(folder)
        # After the size is set below: the command would begin with that of another terminal.
        os.read(0, 1)
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        environment["TERM"] = term
        if not callable(command):
            os.execve(command[0], list(command), environment)
        _call(command, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    os.write(terminal, b"\n")
    written, waiting, since = b"", list(keys), 0
    while True:
        if not select.select([terminal], [], [], _SILENCE_S)[0]:
            os.kill(process, signal.SIGKILL)
        try:
            part = os.read(terminal, 65536)
        except OSError:  # raised by Linux if the other side is closed
            break
        if not part:
            break
        written += part
        if waiting and waiting[0][0].encode() in written[since:]:
            since = len(written)
            time.sleep(_PAUSE_S)
            os.write(terminal, waiting.pop(0)[1])
    os.close(terminal)
    text = written.decode(errors="backslashreplace")  # what is typed is shown, too, and need not be text
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == status, text
    return text
