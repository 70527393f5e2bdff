"""A checkpoint that several ranks write, each the parts of tensors that it has, while they train on.

Each rank copies its parts, and a thread of its own writes them into a directory that the first rank has made, then a
mark with their checksums. The first rank waits for all marks, adds undivided tensors and the manifest, and renames
the directory: until then no reader sees it. Nothing is sent between ranks, which meanwhile use their links to train.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from archlab.errors import ArchlabError
from archlab.modeling.optimizer import at_average
from archlab.parallel.parts import Part, is_saver, local_of, parts_of
from archlab.parallel.ranks import Ranks
from archlab.runtime.fsync import fsync_path
from archlab.storage.checkpoint import RNG, STATE, rotate, state_of
from archlab.storage.files import atomic_dir, write_text
from archlab.storage.manifest import write_manifest
from archlab.storage.optimizer_state import tensors_of
from archlab.storage.ownership import require_listed
from archlab.storage.run_state import random_states
from archlab.storage.stored_tensors import MODEL, OPTIMIZER, part_file, part_metadata
from archlab.storage.tensor_stream import stream_tensors
from archlab.storage.tensors import named_tensors, write_tensors

_POLL_S = 0.02
Staged = dict[str, tuple[Part, Tensor]]


def stage(model: nn.Module, optimizer: Optimizer, ranks: Ranks) -> dict[str, Staged]:
    """Return copies in the CPU's memory of the parts that this rank saves, of weights and of moments, by name."""
    with at_average(optimizer):
        weights, moments = named_tensors(model), tensors_of(model, optimizer)
        trained = {name for name, tensor in weights.items() if isinstance(tensor, nn.Parameter)}
        return {
            MODEL: _stage(weights, parts_of(model, weights), ranks, trained),
            OPTIMIZER: _stage(moments, parts_of(model, moments, prefixed=True), ranks, set(moments)),
        }


def _stage(tensors: Mapping[str, Tensor], parts: Mapping[str, Part], ranks: Ranks, equal: set[str]) -> Staged:
    staged = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        part, own = parts[name], local_of(tensor)
        # Buffers are each rank's own, where they count its own tokens: the first rank's are kept, as always.
        if is_saver(part, number if name in equal else 0, ranks) and (own.numel() or part.is_whole):
            copy = torch.empty(own.shape, dtype=own.dtype)
            staged[name] = part, copy.copy_(own)
    return staged


@dataclass(frozen=True)
class Undivided:
    """The part of a checkpoint that the first rank alone adds, as of the time of the copy."""

    state: Mapping[str, Any]
    random: Mapping[str, Tensor]

    @classmethod
    def of(cls, step: int, model: nn.Module, optimizer: Optimizer, extra: Mapping[str, Any]) -> Undivided:
        """Return step, `extra`, the optimizer's groups and the states of the random number generators."""
        states = {name: state.clone() for name, state in random_states().items()}
        return cls(state_of(step, model, optimizer, extra), states)


class NewCheckpoint:
    """The directory that becomes a checkpoint, which the first rank makes and publishes."""

    def __init__(self, folder: Path, step: int, keep: int, keep_steps: tuple[int, ...]) -> None:
        self.folder, self.step, self.keep, self.keep_steps = folder, step, keep, keep_steps
        self._held = ExitStack()
        path = folder / f"step_{step:08d}"
        self.partial = self._held.enter_context(atomic_dir(path, replace=True, check=require_listed))

    def publish(self, count: int, undivided: Undivided, has_ended: Callable[[], bool]) -> None:
        """Wait for the parts of the given number of ranks and publish, or discard the parts once `has_ended`."""
        with self._held:
            files = _wait_for_marks(self.partial, count, has_ended)
            write_tensors(self.partial / RNG, undivided.random)
            write_text(self.partial / STATE, json.dumps(undivided.state, indent=2))
            write_manifest(self.partial, "checkpoint", files)
        rotate(self.folder, self.step, self.keep, self.keep_steps)

    def discard(self) -> None:
        """Delete the parts."""
        with suppress(_Discarded), self._held:
            raise _Discarded


class _Discarded(ArchlabError):
    """A checkpoint whose parts will not all come, since one of the ranks has failed, which reports it."""


def _wait_for_marks(partial: Path, count: int, has_ended: Callable[[], bool]) -> dict[str, tuple[int, str]]:
    marks = [partial / f"done-{rank:05d}.json" for rank in range(count)]
    while not all(mark.is_file() for mark in marks):
        if has_ended() or any(partial.glob("failed-*")):
            raise _Discarded(f"{partial}: not all ranks have written their parts")
        time.sleep(_POLL_S)
    files: dict[str, tuple[int, str]] = {}
    for mark in marks:
        files |= {name: (size, sha256) for name, (size, sha256) in json.loads(mark.read_text()).items()}
        mark.unlink()
    return files


def _write_parts(partial: Path, staged: dict[str, Staged], rank: int, count: int) -> None:
    files = {}
    try:
        for kind in (MODEL, OPTIMIZER):
            own, file = staged.pop(kind), partial / part_file(kind, rank, count)
            tensors = {name: tensor for name, (_, tensor) in own.items()}
            metadata = part_metadata({name: part for name, (part, _) in own.items()})
            files[file.name] = stream_tensors(file, tensors, tensors.__getitem__, metadata)
            fsync_path(file)
        write_text(partial / f"done-{rank:05d}.json", json.dumps(files))
    except BaseException:
        # For the first rank to give up at once; if even this cannot be written, it is reported when all end.
        with suppress(OSError):
            (partial / f"failed-{rank:05d}").touch()
        raise


class PartSave:
    """The writing of a checkpoint by this rank, and its publication where it is the first one, in a thread."""

    def __init__(
        self, partial: Path, staged: dict[str, Staged], ranks: Ranks, new: tuple[NewCheckpoint, Undivided] | None = None
    ) -> None:
        self._gives_up_at = float("inf")
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] = thread.submit(_write_parts, partial, staged, ranks.rank, ranks.count)
        self._published: Future[None] | None = None
        if new is not None:
            checkpoint, undivided = new
            self._published = thread.submit(checkpoint.publish, ranks.count, undivided, self._has_ended)
        thread.shutdown(wait=False)

    def _has_ended(self) -> bool:
        return self._written.exception() is not None or time.monotonic() >= self._gives_up_at

    def raise_error(self) -> None:
        """Raise a failure of this rank so far; another rank's failure is raised by that rank."""
        for future in (self._written, self._published):
            if future is not None and future.done() and not isinstance(future.exception(), _Discarded):
                future.result()

    def wait_written(self) -> None:
        """Wait until this rank's parts are on disk; raise their failure."""
        self._written.result()

    def wait_published(self) -> None:
        """Wait in the first rank until the checkpoint is published; raise its failure."""
        if self._published is not None:
            self._published.result()

    def end(self, patience_s: float) -> None:
        """Wait for the checkpoint, or so long for other ranks, after which it is discarded; raises nothing."""
        self._gives_up_at = time.monotonic() + patience_s
        for future in (self._written, self._published):
            if future is not None:
                future.exception()
