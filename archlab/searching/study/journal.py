"""Optuna's journal in a file that workers share without a server: one line a change, appended under a lock.

Optuna's own backend (5.0) waits half a minute for the lock file of a worker that was killed, then takes it from one
that is only slow, and cannot read a file in which a worker was killed while writing a line. The kernel releases this
one's lock, and the next writer cuts off a line without an end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import BaseJournalBackend

from archlab.errors import MachineError
from archlab.storage.locks import lock

_BLOCK = 65536


class JournalFile(BaseJournalBackend):
    """A file of JSON lines, created if missing; raises MachineError for one that holds something else."""

    def __init__(self, file: Path) -> None:
        file.touch()
        self.file, self._offsets = file, [0]  # of each line, and of the next

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the changes from a number on."""
        with self.file.open("rb") as file:
            first = min(log_number_from, len(self._offsets) - 1)
            file.seek(self._offsets[first])
            for number, line in enumerate(file, first):
                if not line.endswith(b"\n"):  # another worker is writing it, or was killed while it did
                    return
                if number + 1 == len(self._offsets):
                    self._offsets.append(self._offsets[number] + len(line))
                if number >= log_number_from:
                    yield self._parse(line, number + 1)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append changes: all of them, or none if the disk is full."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        # Not Optuna's name for the lock: its own tools would take it for that of a worker that was killed. And the file
        # is not created: one that was deleted meanwhile, or whose file server is away, is not a journal to begin again.
        locked = lock(self.file.with_name(f"{self.file.name}.flock"), wait=True)
        with locked, self.file.open("rb+", buffering=0) as file:
            end = _end_of_last_line(file)
            try:
                file.truncate(end)
                _write(file, end, text)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            log = json.loads(line)
        except ValueError:
            log = None
        if not isinstance(log, dict):
            raise MachineError(f"{self.file}: line {number}: is not a line of a journal of Optuna's; bring a copy back")
        return log


def _end_of_last_line(file: BinaryIO) -> int:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(end - _BLOCK, 0)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _write(file: BinaryIO, at: int, text: bytes) -> None:
    file.seek(at)
    while text:
        text = text[file.write(text) :]
