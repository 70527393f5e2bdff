"""Who looks on while a model is trained."""

from __future__ import annotations

from typing import Any, Protocol

from archlab.config.experiment import Experiment


class Watch(Protocol):
    """What looks on while a model is trained; raising from `on_eval` ends the run."""

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Training begins, or goes on, after `step` updates."""

    def on_step(self, record: dict[str, Any]) -> None:
        """One update has been made."""

    def on_eval(self, record: dict[str, Any]) -> None:
        """The model has been evaluated on the validation split."""


class Silent:
    """A watch that looks away."""

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Do nothing."""

    def on_step(self, record: dict[str, Any]) -> None:
        """Do nothing."""

    def on_eval(self, record: dict[str, Any]) -> None:
        """Do nothing."""
