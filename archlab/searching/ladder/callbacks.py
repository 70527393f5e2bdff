"""Callbacks of a ladder."""

from __future__ import annotations

from collections.abc import Sequence

from archlab.searching.ladder.config import Ladder, Rung
from archlab.searching.ladder.forecasts import Forecast
from archlab.searching.ladder.selection import Decision
from archlab.training.callbacks import Callback, CallbackList
from archlab.training.progress import Progress


class LadderCallback:
    """Hooks that a ladder calls; every method does nothing unless overridden."""

    def on_ladder(self, ladder: Ladder, candidates: Sequence[str]) -> None:
        """The ladder starts, or resumes, with these candidates."""

    def on_rung(self, rung: Rung, params: float, done: int, total: int, forecast: Forecast | None) -> None:
        """A rung starts, or resumes, after `done` of its `total` runs; its forecast is written."""

    def on_run(self, label: str) -> Callback:
        """A run starts; return its training callback."""
        return Callback()

    def on_result(self, label: str, loss: float | None, reason: str) -> None:
        """A run has ended with a loss, or for a reason."""

    def on_decision(self, rung: Rung, decision: Decision) -> None:
        """Called when a rung is complete and the candidates that continue are selected."""

    def on_wait(self, progress: Progress) -> None:
        """Other processes do the work, and have come so far; called every few seconds until they have done it."""


class LadderCallbackList(LadderCallback):
    """Forwards every hook to several callbacks, in order."""

    def __init__(self, callbacks: Sequence[LadderCallback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_ladder(self, ladder: Ladder, candidates: Sequence[str]) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_ladder(ladder, candidates)

    def on_rung(self, rung: Rung, params: float, done: int, total: int, forecast: Forecast | None) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_rung(rung, params, done, total, forecast)

    def on_run(self, label: str) -> Callback:
        """Forward to each, and return all their training callbacks."""
        return CallbackList([callback.on_run(label) for callback in self.callbacks])

    def on_result(self, label: str, loss: float | None, reason: str) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_result(label, loss, reason)

    def on_decision(self, rung: Rung, decision: Decision) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_decision(rung, decision)

    def on_wait(self, progress: Progress) -> None:
        """Forward to each."""
        for callback in self.callbacks:
            callback.on_wait(progress)
