"""Trials in processes of their own, forked from one that has torch imported, so that each starts at once.

A crash, an exit, a leak or a hang of a trial costs that trial only.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from archlab.runtime.signals import Stopped
from archlab.searching.trials.trial_child import run_child
from archlab.searching.trials.trial_process import TrialProcess
from archlab.searching.trials.trial_resources import Seat
from archlab.searching.trials.trial_server import trial_context


class TrialProcesses:
    """Gives each trial of one search a process of its own; several threads may call it at a time.

    `plugins` are imported there, as the search's own process has imported them.
    """

    def __init__(self, plugins: Sequence[str] = ()) -> None:
        self.context = trial_context()
        self.plugins = tuple(plugins)
        self.stopping = threading.Event()
        self._running: set[BaseProcess] = set()

    @contextmanager
    def open(self, label: str, folder: Path, seat: Seat, time_limit: float | None = None) -> Iterator[TrialProcess]:
        """Start the process of a trial, which ends with the block, and after `time_limit` seconds at the latest."""
        if self.stopping.is_set():
            raise Stopped(signal.SIGTERM)
        folder.mkdir(parents=True, exist_ok=True)
        own, other = self.context.Pipe()
        process = self.context.Process(target=run_child, args=(other, str(folder.resolve()), self.plugins, seat))
        process.start()
        other.close()
        self._running.add(process)
        try:
            yield TrialProcess(self.stopping, label, folder, process, own, time_limit)
        finally:
            own.close()
            _end(process)
            self._running.discard(process)

    def stop(self) -> None:
        """Ask every trial to save a checkpoint and end, and start no other."""
        self.stopping.set()  # which the worker of each trial polls, and forwards to its process

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
