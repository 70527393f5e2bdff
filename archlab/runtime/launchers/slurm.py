"""Jobs in the queue of a Slurm cluster, submitted through submitit."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from archlab.errors import ArchlabError, MachineError, one_line
from archlab.runtime.launch import STDERR, STDOUT, Job, command_of, require_package
from archlab.runtime.launchers._slurm_step import Step, ended_file, stop_file
from archlab.runtime.outcome import Outcome, outcome_of_exit
from archlab.runtime.supervise import Order

_log = logging.getLogger(__name__)
FILES = "slurm"  # in a job's folder: the batch script, Slurm's own output, and the files of _slurm_step
POLL_S = 5.0  # between two questions to the controller, however many jobs are polled
SETTLE_S = 60.0  # for which a file of another node may stay unseen on a shared file system
# Every other state is of a job that waits, runs, or is put back into the queue.
_OUTCOMES = {
    "COMPLETED": Outcome.DONE,
    "FAILED": Outcome.MACHINE,  # before the command could end, whose status is in a file
    "TIMEOUT": Outcome.TIME_LIMIT,
    "DEADLINE": Outcome.TIME_LIMIT,
    "PREEMPTED": Outcome.PREEMPTED,
    "CANCELLED": Outcome.USER,
    "REVOKED": Outcome.USER,
    "OUT_OF_MEMORY": Outcome.KILLED,
    "NODE_FAIL": Outcome.MACHINE,
    "BOOT_FAIL": Outcome.MACHINE,
    "LAUNCH_FAILED": Outcome.MACHINE,
}
# Why a job waits that Slurm has taken although it fits nowhere: whether it refuses one is its configuration's to say.
_NEVER = (
    "PartitionConfig",
    "BadConstraints",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "InvalidAccount",
    "InvalidQOS",
)
_UNREACHABLE = ("unable to contact", "connection refused", "timed out", "communication connection failure")


class SlurmLauncher:
    """Runs jobs on a Slurm cluster, all of whose nodes share the jobs' folders and this Python environment.

    A job that Slurm preempts (SIGTERM) or whose time ends (SIGUSR1, `signal_s` seconds before) goes back into the
    queue if it exits with the status of a preemption, 85: it then continues from its checkpoint.

    Args:
        partition: the partition; this and the following are sbatch's, by the same names.
        account: the account that is charged.
        qos: the quality of service.
        constraint: features that a node must have.
        reservation: the reservation to use.
        nodelist: the only nodes to use.
        exclude: nodes to leave out.
        gres: further generic resources; GPUs are those of the job.
        mem: memory of a job, as in 16GB.
        exclusive: share no node.
        comment: a comment for the accounting.
        signal_s: seconds before the end of a job's time at which it is asked to save and end.
        setup: lines of shell before a job, such as `module load cuda`.
        sbatch: any other options of sbatch, without their dashes.
    """

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        reservation: str | None = None,
        nodelist: str | None = None,
        exclude: str | None = None,
        gres: str | None = None,
        mem: str | None = None,
        exclusive: bool = False,
        comment: str | None = None,
        signal_s: int = 120,
        setup: list[str] | None = None,
        sbatch: dict[str, bool | int | str] | None = None,
    ) -> None:
        require_package("submitit", "slurm")
        own = {"partition": partition, "account": account, "qos": qos, "constraint": constraint, "nodelist": nodelist}
        own |= {"exclude": exclude, "gres": gres, "mem": mem, "comment": comment, "reservation": reservation}
        self._options: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        self._options |= {"exclusive": True} if exclusive else {}
        self._setup = setup
        # With no letter before the signal it goes to all processes of a job.
        self._options |= {"signal": f"USR1@{signal_s}", "requeue": True, **(sbatch or {})}
        self._folders: dict[str, Path] = {}
        self._gone: dict[str, float] = {}
        self._states: dict[str, str] = {}
        self._asked_at = -math.inf
        self._lock = threading.Lock()

    def submit(self, job: Job) -> str:
        """Submit a job with sbatch; raise ArchlabError if Slurm refuses it, MachineError if it does not answer."""
        folder = job.folder.absolute()
        files = folder / FILES
        files.mkdir(parents=True, exist_ok=True)
        limit = job.resources.time_limit
        # The environment, and no file, takes variables to the job: there may be passwords among them.
        order = Order(command_of(job), os.getcwd(), str(folder / STDOUT), str(folder / STDERR))
        with self._lock, _environment(job.env):
            id = str(_submit(self._executor(job, files, limit), Step(order, files, job.resources.cpus)))
        self._folders[id] = files
        self._asked_at = -math.inf
        return id

    def poll(self, id: str) -> Outcome | None:
        """Return how a job has ended, or None while it waits, runs, or waits again; None if Slurm does not answer."""
        if id in self._folders and (file := ended_file(self._folders[id], id)).exists():
            return outcome_of_exit(int(file.read_text()))
        with self._lock:
            self._refresh()
            state = self._states.get(id)
        if state is None:
            return None
        outcome = _OUTCOMES.get(state, None if state else Outcome.MACHINE)
        if outcome not in (Outcome.DONE, Outcome.MACHINE):
            return outcome
        # Its exit status says more, once it can be read.
        seen = self._gone.setdefault(id, time.monotonic())
        return outcome if time.monotonic() - seen > SETTLE_S else None

    def stop(self, id: str, grace_s: float) -> None:
        """Ask a job to end, or take it out of the queue."""
        if id in self._folders:
            stop_file(self._folders[id], id).write_text(str(grace_s))
        # The file, and no signal, is for a job that runs: Slurm would signal its processes' children as well.
        _ask("scancel", "--state=PENDING", id)

    def _executor(self, job: Job, files: Path, limit: float | None) -> Any:
        import submitit
        from submitit.core import logger

        logger.get_logger().setLevel(logging.WARNING)
        options = dict(self._options)
        if limit is not None:
            options["time"] = f"{math.ceil(limit) // 60}:{math.ceil(limit) % 60:02d}"
        cpus, gpus = job.resources.total_cpus, job.resources.total_gpus
        executor = submitit.SlurmExecutor(files)
        executor.update_parameters(
            **{"job_name": f"archlab_{job.folder.name}", "nodes": 1, "ntasks_per_node": 1, "cpus_per_task": cpus},
            **({"gpus_per_node": gpus} if gpus else {}),
            **{"time": None, "wckey": None, "setup": self._setup, "additional_parameters": options},
            # From 22.05 on, srun does not take the number from sbatch.
            srun_args=[f"--cpus-per-task={cpus}"],
        )
        return executor

    def _refresh(self) -> None:
        if time.monotonic() - self._asked_at < POLL_S:
            return
        self._asked_at = time.monotonic()
        listed = _ask("squeue", "--me", "--noheader", "--states=all", "--format=%i %T %r")
        if listed is None:
            return
        rows = {words[0]: words[1:] for line in listed.splitlines() if len(words := line.split()) > 2}
        for id in self._folders:
            _warn_if_stuck(id, *rows.get(id, ("", "")))
        # The controller forgets a job minutes after its end (MinJobAge); the accounting, if there is any, does not.
        self._states = {id: rows[id][0] if id in rows else _accounting_state(id) for id in self._folders}


@cache
def _warn_if_stuck(id: str, state: str, *reason: str) -> None:
    if state == "PENDING" and reason[0] in _NEVER:
        _log.warning("Slurm's job %s waits for a condition that may never be met: %s", id, reason[0])


def _submit(executor: Any, step: Step) -> str:
    printed = StringIO()
    try:
        with redirect_stderr(printed):
            return str(executor.submit(step).job_id)
    except (RuntimeError, OSError, ValueError) as error:
        text = one_line(str(error).strip() or printed.getvalue().strip())
        kind = MachineError if any(words in text.lower() for words in _UNREACHABLE) else ArchlabError
        raise kind(f"Slurm does not take the job: {text}") from error


def _accounting_state(id: str) -> str:
    """Return the state of a job in the accounting, or "" if there is no accounting, or no such job."""
    words = (_ask("sacct", "--noheader", "--allocations", "--format=State%30", "--jobs", id) or "").split()
    return words[0].rstrip("+") if words else ""


def _ask(*command: str) -> str | None:
    """Return the output of a command of Slurm, or None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """Add variables to this process's environment, which sbatch copies."""
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


LAUNCHER = SlurmLauncher
