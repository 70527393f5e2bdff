"""The seats of a search's workers on this machine: cores and GPUs that each trial has to itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from archlab.runtime.launch import Resources
from archlab.runtime.memory import available_memory
from archlab.runtime.shares import machine_shares

_MEMORY_OF_TRIAL = 1.5e9  # of a small model's, its process included


@dataclass(frozen=True)
class Seat:
    """The threads of a trial, the cores that they run on (any, where there are none), and its GPUs (None: all)."""

    threads: int
    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] | None = None


def num_seats() -> int:
    """Return how many workers fit this machine: one for each GPU, else one for each core with enough memory."""
    whole = machine_shares().whole
    if whole.gpus:
        return len(whole.gpus)
    return max(1, min(whole.num_cores, int(available_memory(torch.device("cpu")) // _MEMORY_OF_TRIAL)))


def make_seats(workers: int, threads: int | None = None) -> list[Seat]:
    """Share this machine out to workers of `threads` threads each, as many as there is room for unless given.

    More workers than cores share them all, and more than GPUs share those in turn.
    """
    shares = machine_shares()
    whole = shares.whole
    # As many as torch would take by itself at most: OMP_NUM_THREADS is the user's wish.
    each = threads or max(1, min(torch.get_num_threads(), whole.num_cores // workers))
    gpus = [(whole.gpus[index % len(whole.gpus)],) if whole.gpus else None for index in range(workers)]
    if workers == 1 or each * workers > whole.num_cores:  # another process may have a worker too: nobody is pinned
        return [Seat(each, (), own) for own in gpus]
    cores = [shares.take(Resources(cpus=each)).cores for _ in range(workers)]
    return [Seat(each, mine, own) for mine, own in zip(cores, gpus, strict=True)]
