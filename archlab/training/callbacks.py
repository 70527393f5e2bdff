"""Callbacks of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archlab.config.experiment import Experiment


class Callback:
    """Base class of training callbacks, whose hooks do nothing unless overridden.

    A callback that stops a run when the loss is low enough, and one that logs to another service:

        class StopBelow(archlab.Callback):
            def on_eval(self, record: Mapping[str, float]) -> None:
                if record["val_loss"] < 1.5:
                    raise KeyboardInterrupt  # as Ctrl-C does: a checkpoint is saved, and the run can be resumed

        class Tracker(archlab.Callback):
            def on_step(self, record: Mapping[str, float]) -> None:
                wandb.log(record, step=record["step"])

        archlab.train("megalodon_tiny", callbacks=[Tracker(), archlab.ProgressBar()])

    An exception that a hook raises ends the run after `on_end`, as optuna.TrialPruned does in a search.
    """

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Called when training starts, or resumes after `step` optimizer steps."""

    def on_step(self, record: Mapping[str, float]) -> None:
        """Called after each optimizer step.

        `record` holds step, loss (nats per target), lr, grad_norm, tokens_per_s, and tokens since the first step; of
        the first process memory_bytes (the most so far) and data_wait_s; tokens_per_s_per_device, and where the peak
        of the device is known mfu, the share of it that the model's own FLOPs take.
        """

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Called after each evaluation on the validation split.

        `record` holds step and the task's metrics with the prefix `val_`, such as val_loss and val_bpb.
        """

    def on_eval_progress(self, done: int, total: int | None) -> None:
        """Called while such an evaluation runs, after `done` of its `total` targets, None if unknown."""

    def on_end(self) -> None:
        """Called once when training ends, at its last step or with an exception."""


class CallbackList(Callback):
    """Forwards every hook to several callbacks, in order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Forward to each callback."""
        for callback in self.callbacks:
            callback.on_start(experiment, step)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Forward to each callback."""
        for callback in self.callbacks:
            callback.on_step(record)

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Forward to each callback."""
        for callback in self.callbacks:
            callback.on_eval(record)

    def on_eval_progress(self, done: int, total: int | None) -> None:
        """Forward to each callback."""
        for callback in self.callbacks:
            callback.on_eval_progress(done, total)

    def on_end(self) -> None:
        """Forward to each callback."""
        for callback in self.callbacks:
            callback.on_end()
