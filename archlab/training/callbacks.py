"""Callbacks of a training run."""

from __future__ import annotations

from typing import Any

from archlab.config.experiment import Experiment


class Callback:
    """Hooks that a training run calls; every method does nothing unless overridden.

    An exception that a hook raises ends the run, as Optuna's TrialPruned does.
    """

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Training starts, or resumes after `step` optimizer steps."""

    def on_step(self, record: dict[str, Any]) -> None:
        """One optimizer step is done; `record` holds step, loss, lr, grad_norm, tokens_per_s and tokens."""

    def on_eval(self, record: dict[str, Any]) -> None:
        """The model was evaluated on the validation split; `record` holds step and the metrics, as val_loss."""
