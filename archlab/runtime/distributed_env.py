"""This process's rank and node among those that train together, from the environment of torchrun, archlab or Slurm."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from archlab.errors import ConfigError

# Ports above those that Linux gives to clients; each job of a node has its own, as far as job ids differ.
_FIRST_PORT, _PORTS = 61000, 4000
_HOST = re.compile(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?([^,]*)")


@dataclass(frozen=True)
class Place:
    """The number of a process among `count` of them, and among the `local_count` of its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process alone writes and prints."""
        return self.rank == 0


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place that torchrun's variables or those of a step of Slurm's tell, by default that of one process.

    Raises ConfigError for a variable that is not a number.
    """
    if "WORLD_SIZE" in environment and "RANK" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif is_slurm_step(environment):
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
    else:
        return Place()
    rank, count, local_rank, local_count = (_number(environment, name) for name in names)
    return Place(rank, count, local_rank, local_count)


def is_slurm_step(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether srun started this process as one of several; a batch script itself is not one."""
    return environment.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "SLURM_PROCID" in environment


def was_restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a launcher has restarted the processes after a failure; they resume from the last checkpoint."""
    return environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def rendezvous(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return host and port at which the processes meet: MASTER_ADDR and MASTER_PORT, or the first node of Slurm's step.

    Raises ConfigError if the host is unknown.
    """
    host = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", ""))
    if not host:
        raise ConfigError("MASTER_ADDR", "is not set: start the processes with --processes, torchrun or srun")
    job = int(re.sub(r"\D", "", environment.get("SLURM_JOB_ID", "")) or 0)
    step = int(re.sub(r"\D", "", environment.get("SLURM_STEP_ID", "")) or 0)
    own = _FIRST_PORT + (job + step) % _PORTS
    return host, _number(environment, "MASTER_PORT") if "MASTER_PORT" in environment else own


def first_host(nodelist: str) -> str:
    """Return the first host of Slurm's notation, such as node01 of `node[01-04,07]`."""
    found = _HOST.match(nodelist)
    return f"{found[1]}{found[2] or ''}{found[3]}" if found else ""


def _number(environment: Mapping[str, str], name: str) -> int:
    # Slurm writes 4(x2),3 for two nodes of four tasks and one of three.
    found = re.match(r"\d+", environment.get(name, "1" if "LOCAL_WORLD" in name else "0"))
    if found is None:
        raise ConfigError(name, f"{environment[name]!r} is not a number")
    return int(found[0])
