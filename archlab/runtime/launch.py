"""Jobs, and the launchers that run them on this machine or on a cluster.

A launcher is a class whose keyword-only parameters are its options. Those that ship are modules of
`archlab.runtime.launchers`, found by name; an installed package adds one by an entry point of the group
`archlab.launchers`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from archlab.errors import ArchlabError, ConfigError, did_you_mean
from archlab.runtime.extensions import LAUNCHERS
from archlab.runtime.outcome import Outcome

STDOUT, STDERR = "stdout.log", "stderr.log"  # of a job, in its folder; a job that is run again appends to them


@dataclass(frozen=True)
class Resources:
    """Resources of a job: `processes` of a program, with `cpus` cores and `gpus` GPUs each, for `time_limit` seconds.

    Raises ConfigError for numbers that are none.
    """

    processes: int = 1
    cpus: int = 1
    gpus: int = 0
    time_limit: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("cpus", 1), ("gpus", 0)):
            if getattr(self, name) < least:
                raise ConfigError(name, f"{getattr(self, name)!r} is not at least {least}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ConfigError("time_limit", f"{self.time_limit!r} is not above 0 seconds")

    @property
    def total_cpus(self) -> int:
        """The cores of all processes."""
        return self.processes * self.cpus

    @property
    def total_gpus(self) -> int:
        """The GPUs of all processes."""
        return self.processes * self.gpus


@dataclass(frozen=True)
class Job:
    """A command, the folder of its output, its resources, and variables to add to its environment.

    It runs in the working directory of the process that submits it, so that relative paths mean the same there.
    """

    argv: tuple[str, ...]
    folder: Path
    resources: Resources = Resources()
    env: Mapping[str, str] = field(default_factory=dict)


class Launcher(Protocol):
    """Runs jobs. Every method may raise MachineError where the machine or the cluster does not answer."""

    def submit(self, job: Job) -> str:
        """Start a job, now or when its turn comes, and return its id.

        Raises ArchlabError for a job that can never run here, naming the requested and the existing resources.
        """
        ...

    def poll(self, id: str) -> Outcome | None:
        """Return how a job has ended, or None while it waits or runs."""
        ...

    def stop(self, id: str, grace_s: float) -> None:
        """Send a job SIGTERM and return; processes left after `grace_s` seconds are killed."""
        ...


def launcher_names() -> list[str]:
    """Return the names of all launchers."""
    return LAUNCHERS.names()


def find_launcher(name: str, path: str = "launcher") -> Callable[..., Launcher]:
    """Return the class of a launcher by its name; raise ConfigError, which names `path`, if there is none."""
    found: Callable[..., Launcher] | None = LAUNCHERS.find(name)
    if found is None:
        raise ConfigError(path, f"no launcher {name!r}{did_you_mean(name, launcher_names())}")
    return found


def require_package(package: str, extra: str) -> None:
    """Raise ArchlabError, with the command that installs it, if a launcher's package is missing."""
    if find_spec(package) is None:
        raise ArchlabError(f'the launcher {extra} needs the package {package}: pip install "archlab[{extra}]"')


def command_of(job: Job) -> tuple[str, ...]:
    """Return the command that runs a job: its own, or torch's elastic launcher with `processes` of it."""
    if job.resources.processes == 1:
        return job.argv
    return (sys.executable, "-m", "archlab.runtime.elastic", str(job.resources.processes), *job.argv)
