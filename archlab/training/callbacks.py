"""Callbacks of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archlab.config.experiment import Experiment


class Callback:
    """Hooks that a training run calls; every method does nothing unless overridden.

    An exception that a hook raises ends the run, as Optuna's TrialPruned does.
    """

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Training starts, or resumes after `step` optimizer steps."""

    def on_step(self, record: Mapping[str, float]) -> None:
        """One optimizer step is done; `record` holds step, loss, lr, grad_norm, tokens_per_s and tokens."""

    def on_eval(self, record: Mapping[str, float]) -> None:
        """The model was evaluated on the validation split; `record` holds step and the metrics, as val_loss."""

    def on_end(self) -> None:
        """Training has ended, at its last step or by an exception."""


class CallbackList(Callback):
    """Call every hook of several callbacks, in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_start(experiment, step)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_step(record)

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_eval(record)

    def on_end(self) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_end()
