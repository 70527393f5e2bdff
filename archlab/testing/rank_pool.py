"""A pool of processes, each with one thread, for checks of several ranks."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from archlab.parallel.session import Session, adopt
from archlab.runtime.distributed_env import Place

SIZE = 4  # as many ranks as any check asks for
_TIMEOUT = timedelta(seconds=120)


class RankPool:
    """Processes that wait for work; each piece of it has a process group of its own."""

    def __init__(self, size: int = SIZE) -> None:
        # A fork server with their imports forks each: a fork of this process could not run backward passes.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["archlab.testing.parallel"])
        self._folder = tempfile.TemporaryDirectory()
        self._file = str(Path(self._folder.name) / "store")
        self._links: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._calls = 0
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, self._file), daemon=True)
            process.start()
            theirs.close()
            self._links.append(ours)
            self._processes.append(process)
        atexit.register(self.close)

    def run(self, count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return the results of `function(session, *arguments)` in each of `count` ranks.

        Raises RuntimeError with the traceback of the first one that fails. Its processes end then, as the others may
        wait for it, and `rank_pool` starts new ones.
        """
        self._calls += 1
        try:
            for link in self._links[:count]:
                link.send((self._calls, count, function, arguments))
            return [self._answer_of(rank) for rank in range(count)]
        except (RuntimeError, OSError):  # OSError where a process has ended between two calls
            self.close()
            raise

    def _answer_of(self, rank: int) -> Any:
        try:
            answer = self._links[rank].recv()
        except EOFError:
            self._processes[rank].join()
            raise RuntimeError(f"the process of rank {rank} ended, with {self._processes[rank].exitcode}") from None
        if isinstance(answer, _Failed):
            raise RuntimeError(answer.text)
        return answer

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        self._folder.cleanup()
        rank_pool.cache_clear()
        atexit.unregister(self.close)


class _Failed:
    def __init__(self, text: str) -> None:
        self.text = text


@cache
def rank_pool() -> RankPool:
    """Return the pool of this process, started when it is first needed."""
    return RankPool()


def _serve(link: Connection, rank: int, file: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # FSDP's, of outputs that are views, which nothing here writes to
    while True:
        try:
            number, count, function, arguments = link.recv()
        except EOFError:
            return
        try:
            link.send(_in_group(number, count, rank, file, function, arguments))
        except BaseException:
            link.send(_Failed(traceback.format_exc()))


def _in_group(
    number: int, count: int, rank: int, file: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    store = dist.PrefixStore(str(number), dist.FileStore(file, -1))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=_TIMEOUT)
    try:
        place = Place(rank, count, rank, count)
        joined = Session(place, torch.device("cpu"), dist.PrefixStore("archlab", store))
        with adopt(joined):
            return function(joined, *arguments)
    finally:
        dist.destroy_process_group()
