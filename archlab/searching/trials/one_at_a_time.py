"""Callbacks that several workers of a search call, from one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from archlab.config.experiment import Experiment
from archlab.searching.space.search_space import Space
from archlab.searching.trials.callbacks import SearchCallback
from archlab.training.callbacks import Callback
from archlab.training.progress import Progress


class OneAtATime(SearchCallback):
    """Calls another callback, and those of its training runs, from one thread at a time."""

    def __init__(self, callback: SearchCallback) -> None:
        self.callback, self.lock = callback, threading.RLock()

    def on_search(self, space: Space, done: int, total: int) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_search(space, done, total)

    def on_study(self, read: Callable[[], Progress]) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_study(read)

    def on_run(self, label: str, values: Mapping[str, Any]) -> Callback:
        """Forward, and return a callback that is called so too."""
        with self.lock:
            return RunOneAtATime(self.callback.on_run(label, values), self.lock)

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_result(label, state, reason, metrics)

    def on_wait(self) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_wait()

    def on_final_eval(self, label: str, done: int, total: int | None) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_final_eval(label, done, total)


class RunOneAtATime(Callback):
    """Calls the callback of a training run while a lock is held."""

    def __init__(self, callback: Callback, lock: threading.RLock) -> None:
        self.callback, self.lock = callback, lock

    def on_start(self, experiment: Experiment, step: int) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_start(experiment, step)

    def on_step(self, record: Mapping[str, float]) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_step(record)

    def on_eval(self, record: Mapping[str, float]) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_eval(record)

    def on_eval_progress(self, done: int, total: int | None) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_eval_progress(done, total)

    def on_end(self) -> None:
        """Forward."""
        with self.lock:
            self.callback.on_end()
