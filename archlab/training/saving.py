"""The checkpoints of a run: of a divided model written part by part, by all ranks, while they train on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from archlab.config.train_config import TrainConfig
from archlab.parallel.ranks import Ranks, is_lost_peer
from archlab.parallel.shard import is_divided
from archlab.runtime.signals import Stopped
from archlab.storage.checkpoint import checkpoints, save_checkpoint
from archlab.storage.part_save import NewCheckpoint, PartSave, Undivided, stage
from archlab.storage.stored_tensors import StoredTensors
from archlab.training.step import TrainStep

_PATIENCE_S = 20.0  # after a failure, for the parts of other ranks


class Saver:
    """Saves the checkpoints of a run in `folder`; `tell` is called in the first rank before each one.

    It returns the checkpoint's data beside the state of training, or raises if nothing may be written.
    """

    def __init__(
        self,
        folder: Path,
        train: TrainConfig,
        train_step: TrainStep,
        ranks: Ranks,
        tell: Callable[[], Mapping[str, Any]],
    ) -> None:
        self.folder, self.train, self.train_step, self.ranks, self.tell = folder, train, train_step, ranks, tell
        self.saved_at = float("-inf")
        self._new: NewCheckpoint | None = None
        self._save: PartSave | None = None

    def save(self) -> None:
        """Save a checkpoint; one of a divided model is being written when this returns, and the last one is there."""
        self.finish()
        self.ranks.publish(self.train_step.step, "write")
        if is_divided(self.train_step.model):
            self._begin()
        else:
            with self.ranks.keep_error():
                if self.ranks.is_first:
                    self._save_whole()
        self.saved_at = time.monotonic()
        self.ranks.raise_together()

    def _save_whole(self) -> None:
        model, optimizer, keep = self.train_step.model, self.train_step.optimizer, self.train.keep_checkpoints
        steps = self.train.checkpoint_at or ()
        save_checkpoint(self.folder, self.train_step.step, model, optimizer, self.tell(), keep=keep, keep_steps=steps)

    def _begin(self) -> None:
        undivided: list[Undivided] = []
        partial = Path(self.ranks.on_first(lambda: self._open(undivided)))
        with self.ranks.keep_error():
            staged = stage(self.train_step.model, self.train_step.optimizer, self.ranks)
            new = (self._new, undivided[0]) if self._new is not None else None
            self._save = PartSave(partial, staged, self.ranks, new)

    def _open(self, undivided: list[Undivided]) -> str:
        step, train = self.train_step, self.train
        undivided.append(Undivided.of(step.step, step.model, step.optimizer, self.tell()))
        self._new = NewCheckpoint(self.folder, step.step, train.keep_checkpoints, tuple(train.checkpoint_at or ()))
        return str(self._new.partial.resolve())

    def check(self) -> None:
        """Raise a failure of this rank since the last save."""
        if self._save is not None:
            self._save.raise_error()

    def finish(self) -> None:
        """Wait until the last checkpoint is there; all ranks call this, and raise if one has failed."""
        if self._save is None:
            return
        self.ranks.publish(self.train_step.step, "write")
        with self.ranks.keep_error():
            self._save.wait_written()
        self.ranks.raise_together()
        self.ranks.on_first(self._save.wait_published)
        self._save = self._new = None

    def end(self, error: BaseException) -> None:
        """Leave a run that has failed: a checkpoint that all ranks still write is waited for, another one discarded."""
        if self._save is not None:
            # Parts of ranks that are gone will not come, and a user may not want to wait for them.
            at_once = is_lost_peer(error) or (isinstance(error, Stopped) and error.at_once)
            self._save.end(0.0 if at_once else _PATIENCE_S)
        elif self._new is not None:
            self._new.discard()
        self._save = self._new = None

    def last_weights(self) -> StoredTensors | None:
        """Return the weights of the last checkpoint, of a divided model; None of one that the first rank has."""
        if not is_divided(self.train_step.model):
            return None
        return StoredTensors(checkpoints(self.folder)[self.train_step.step])
