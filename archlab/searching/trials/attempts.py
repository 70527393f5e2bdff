"""Retries of runs whose processes are killed, from their checkpoints, as long as each makes progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from archlab.searching.failures import exits_fail
from archlab.searching.study.progress import checkpoint_step
from archlab.searching.study.study import MAX_ATTEMPTS
from archlab.searching.trials.trial_job import SAVE_EVERY_S, OpenRunner, TrialRunner
from archlab.searching.trials.trial_process import TrialLost

Output = TypeVar("Output")


def train_to_its_end(
    label: str, folder: Path, open_runner: OpenRunner, train: Callable[[TrialRunner, float | None], Output]
) -> Output:
    """Return the result of `train` with a runner and `save_every_s`, called again if its process was lost.

    Raises TrialLost after as many attempts as a trial has that bring no further checkpoint; the second is alone, as
    memory may have been short.
    """
    fruitless, save_every_s = 0, None
    while True:
        before = checkpoint_step(folder) or 0
        try:
            with exits_fail(), open_runner(label, folder, alone=fruitless > 0) as runner:
                return train(runner, save_every_s)
        except TrialLost as error:
            has_advanced = not error.by_itself or (checkpoint_step(folder) or 0) > before
            fruitless, save_every_s = 0 if has_advanced else fruitless + 1, SAVE_EVERY_S
            if fruitless == MAX_ATTEMPTS:
                raise
