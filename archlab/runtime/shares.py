"""Disjoint shares of this machine's cores and GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archlab.errors import ArchlabError
from archlab.runtime.cpu_info import num_cores
from archlab.runtime.launch import Resources
from archlab.runtime.process import CACHE, THREADS, inductor_dir, tuning_enabled

DEVICES = "CUDA_VISIBLE_DEVICES"
# Of NVIDIA's driver, of it under Windows' Linux, and of AMD's: without one of them there is no GPU to ask torch for.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True)
class Share:
    """Numbers of cores, none where the system pins no process to any, and GPUs as CUDA_VISIBLE_DEVICES names them."""

    num_cores: int
    cores: tuple[int, ...]
    gpus: tuple[str, ...]

    def environment(self, threads: int, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables that keep a process of `threads` threads within this share, given those it has."""
        shared = {CACHE: str(inductor_dir())} if tuning_enabled() and not env.get(CACHE) else {}
        return {**thread_environment(threads, env), DEVICES: ",".join(self.gpus), **shared}


def thread_environment(threads: int, env: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that gives a process so many threads, or the fewer that its environment has."""
    own = env.get(THREADS, "").split(",")[0]  # a list has one number for each level of nesting
    return {THREADS: str(min(threads, int(own)) if own.isdecimal() and int(own) else threads)}


class Shares:
    """The free cores and GPUs of a pool that jobs share."""

    def __init__(self, num_cores: int, cores: Sequence[int], gpus: Sequence[str]) -> None:
        self._all = Share(num_cores, tuple(cores), tuple(gpus))
        self._free = self._all

    @property
    def whole(self) -> Share:
        """All cores and GPUs of the pool, free or not."""
        return self._all

    def require(self, resources: Resources) -> None:
        """Raise ArchlabError if a job needs more than the whole pool."""
        for asked, has, what in (
            (resources.total_cpus, self._all.num_cores, "cores"),
            (resources.total_gpus, len(self._all.gpus), "GPUs"),
        ):
            if asked > has:
                each = f" ({resources.processes} processes of {asked // resources.processes})"
                of = each if resources.processes > 1 else ""
                raise ArchlabError(f"a job asks for {asked} {what}{of}, and this machine provides {has}")

    def fits(self, resources: Resources) -> bool:
        """Return whether as much as is asked for is free."""
        return resources.total_cpus <= self._free.num_cores and resources.total_gpus <= len(self._free.gpus)

    def take(self, resources: Resources) -> Share:
        """Take a share, with adjacent cores as far as possible."""
        free, cpus, gpus = self._free, resources.total_cpus, resources.total_gpus
        self._free = Share(free.num_cores - cpus, free.cores[cpus:], free.gpus[gpus:])
        return Share(cpus, free.cores[:cpus], free.gpus[:gpus])

    def give_back(self, share: Share) -> None:
        """Return a share."""
        gpus = {*self._free.gpus, *share.gpus}
        self._free = Share(
            self._free.num_cores + share.num_cores,
            tuple(sorted((*self._free.cores, *share.cores))),
            tuple(gpu for gpu in self._all.gpus if gpu in gpus),
        )


def machine_shares(cpus: int | None = None, gpus: int | None = None) -> Shares:
    """Return the cores and GPUs that this process may use, or the given number of them."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    devices = visible_gpus()
    for asked, has, what in ((cpus, num_cores(), "cores"), (gpus, len(devices), "GPUs")):
        if asked is not None and not 0 <= asked <= has:
            raise ArchlabError(f"{asked} {what} are to be shared, and this machine has {has}")
    shared = num_cores() if cpus is None else cpus
    return Shares(shared, cores[:shared], devices[:gpus])


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use: numbers, or names of GPUs or of MIG instances."""
    named = os.environ.get(DEVICES)
    if named is None:
        if not any(map(os.path.exists, _DRIVERS)):
            return []
        import torch

        return [str(number) for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in named.split(",")]
    # As CUDA reads it: the list ends before the first entry that names no device, such as -1.
    end = next((index for index, name in enumerate(names) if not name or name.startswith("-")), len(names))
    return names[:end]
