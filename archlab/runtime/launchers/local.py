"""Jobs on this machine, each with cores and GPUs of its own."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace

from archlab.runtime.launch import STDERR, STDOUT, Job, command_of
from archlab.runtime.outcome import Outcome
from archlab.runtime.shares import Share, machine_shares
from archlab.runtime.supervise import Order, Supervised


@dataclass
class _Entry:
    job: Job
    order: Order
    command: Supervised | None = None
    outcome: Outcome | None = None


class LocalLauncher:
    """Runs jobs on this machine, in the order in which they come, and never more than its cores and GPUs hold.

    If the process that has submitted them dies, they end as if they were stopped.

    Args:
        cpus: use at most the given number of cores, by default all that this process may use.
        gpus: use at most the given number of GPUs, by default those of CUDA_VISIBLE_DEVICES, or all.
    """

    def __init__(self, *, cpus: int | None = None, gpus: int | None = None) -> None:
        self._shares = machine_shares(cpus, gpus)
        self._entries: dict[str, _Entry] = {}
        self._waiting: list[str] = []
        self._changed = threading.Condition()

    def submit(self, job: Job) -> str:
        """Start a job, or queue it behind those that wait; raise ArchlabError if it asks for more than there is."""
        self._shares.require(job.resources)
        job.folder.mkdir(parents=True, exist_ok=True)
        folder = job.folder.absolute()
        order = Order(command_of(job), os.getcwd(), str(folder / STDOUT), str(folder / STDERR))
        with self._changed:
            id = str(len(self._entries))
            self._entries[id] = _Entry(job, order)
            self._waiting.append(id)
        # A daemon: the process may end before its jobs, which then end as well.
        threading.Thread(target=self._run, args=(id,), name=f"job {id}", daemon=True).start()
        return id

    def poll(self, id: str) -> Outcome | None:
        """Return how a job has ended, or None."""
        return self._entries[id].outcome

    def stop(self, id: str, grace_s: float) -> None:
        """Ask a job to end, or take it out of the queue."""
        entry = self._entries[id]
        with self._changed:
            if id in self._waiting:
                self._waiting.remove(id)
                entry.outcome = Outcome.USER
                self._changed.notify_all()
        if entry.command is not None:
            entry.command.stop(grace_s)

    def _run(self, id: str) -> None:
        entry = self._entries[id]
        share = self._take(id)
        if share is None:
            return
        outcome = entry.command.wait() if entry.command else Outcome.MACHINE
        with self._changed:
            self._shares.give_back(share)
            entry.outcome = outcome
            self._changed.notify_all()

    def _take(self, id: str) -> Share | None:
        """Start a job as soon as it is the first that waits and there is room; None if it was stopped before."""
        entry = self._entries[id]
        resources = entry.job.resources

        def is_its_turn() -> bool:
            # A large job is not overtaken by small ones that would keep it waiting forever.
            return entry.outcome is not None or (self._waiting[0] == id and self._shares.fits(resources))

        with self._changed:
            self._changed.wait_for(is_its_turn)
            if entry.outcome is not None:
                return None
            self._waiting.remove(id)
            share = self._shares.take(resources)
            entry.command = self._start(entry, share)
            self._changed.notify_all()  # there may be room for the next one as well
            return share

    def _start(self, entry: _Entry, share: Share) -> Supervised | None:
        env = {**os.environ, **entry.job.env}
        order = replace(entry.order, cores=share.cores, time_limit=entry.job.resources.time_limit)
        try:
            return Supervised(order, env | share.environment(entry.job.resources.cpus, env))
        except OSError:  # no process, or no memory for one
            return None


LAUNCHER = LocalLauncher
