"""A job on a node of a Slurm cluster: its process, and the files by which it communicates with its launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from archlab.runtime.outcome import Outcome
from archlab.runtime.shares import thread_environment
from archlab.runtime.supervise import Order, Supervised

_POLL_S = 1.0
_ASKED = (signal.SIGTERM, signal.SIGUSR1)  # by Slurm, before it preempts a job, and before the job's time ends


def ended_file(folder: Path, id: str) -> Path:
    """Return the file of a job's exit status, which is there once it has ended for good."""
    return folder / f"{id}_exit_status"


def stop_file(folder: Path, id: str) -> Path:
    """Return the file by which a job is asked to end, with the seconds that it has."""
    return folder / f"{id}_stop"


@dataclass
class Step:
    """Runs a command in a job, and puts the job back into the queue if the command was interrupted by Slurm."""

    order: Order
    folder: Path
    threads: int
    _signals: set[int] = field(default_factory=set)

    def __call__(self) -> NoReturn:
        """Run the command and exit with its status."""
        for number in _ASKED:  # whose handlers of submitit would requeue at once, before anything is saved
            signal.signal(number, self._note)
        id = os.environ["SLURM_JOB_ID"]
        if stop_file(self.folder, id).exists():
            self._end(id, Outcome.USER)
        command = Supervised(self.order, os.environ | thread_environment(self.threads, os.environ))
        threading.Thread(target=self._watch, args=(command, stop_file(self.folder, id)), daemon=True).start()
        outcome = command.wait()
        if self._is_interrupted(outcome) and not stop_file(self.folder, id).exists() and _requeue(id):
            sys.exit(Outcome.PREEMPTED.exit_status)
        self._end(id, outcome)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Not passed on: Slurm signals every process of a job, the command among them, and a second signal means that
        # it is to end at once, without a checkpoint.
        self._signals.add(number)

    def _is_interrupted(self, outcome: Outcome) -> bool:
        """Return whether the job is to continue later: it was preempted, or the signal of a preemption killed it."""
        return outcome is Outcome.PREEMPTED or (outcome is Outcome.USER and signal.SIGTERM in self._signals)

    def _watch(self, command: Supervised, stop: Path) -> None:
        while True:
            with suppress(OSError, ValueError):  # a file that is not whole yet
                command.stop(float(stop.read_text()))
                return
            time.sleep(_POLL_S)

    def _end(self, id: str, outcome: Outcome) -> NoReturn:
        file = ended_file(self.folder, id)
        partial = file.with_suffix(".partial")
        partial.write_text(str(outcome.exit_status))
        partial.replace(file)
        sys.exit(outcome.exit_status)


def _requeue(id: str) -> bool:
    """Requeue this job unless a user has canceled it; return whether it is in the queue."""
    shown = subprocess.run(["scontrol", "show", "job", "-o", id], capture_output=True, text=True, check=False)
    if "JobState=RUNNING" not in shown.stdout:  # CANCELLED, or already back, as Slurm's own preemption does it
        return "JobState=PENDING" in shown.stdout
    return subprocess.run(["scontrol", "requeue", id], check=False).returncode == 0
