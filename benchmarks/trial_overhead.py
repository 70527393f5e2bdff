"""The share of a trial's time that is spent outside of training and evaluation, in a search with one worker.

python benchmarks/trial_overhead.py [SPACE [PATH=VALUE ...]] [--trials N]    the quickstart by default, with 2 trials
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
from rich.console import Console
from rich.table import Table

import archlab


class Stopwatch(archlab.SearchCallback):
    """Notes when a trial's runs begin and end, by the trial's name."""

    def __init__(self) -> None:
        self.training: dict[str, float] = {}

    def on_run(self, label: str, values: Mapping[str, object]) -> archlab.Callback:
        """A run begins."""
        return _RunStopwatch(self.training, label.split(",", maxsplit=1)[0])


class _RunStopwatch(archlab.Callback):
    def __init__(self, training: dict[str, float], trial: str) -> None:
        self.training, self.trial, self.begin = training, trial, 0.0

    def on_start(self, experiment: object, step: int) -> None:
        """The first step comes next."""
        self.begin = time.monotonic()

    def on_end(self) -> None:
        """The last evaluation is over."""
        self.training[self.trial] = self.training.get(self.trial, 0.0) + time.monotonic() - self.begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", default="quickstart")
    parser.add_argument("overrides", nargs="*", metavar="PATH=VALUE")
    parser.add_argument("--trials", type=int, default=2)
    arguments = parser.parse_args()
    own = ["study.sampler=random", "study.pruner=none", *arguments.overrides]
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "s"
        options = {"out": out, "trials": arguments.trials, "workers": 1, "callbacks": [watch]}
        archlab.search(arguments.space, own, **options)
        trials = optuna.load_study(study_name=None, storage=f"sqlite:///{out / 'study.db'}").trials
    table = Table("trial", "seconds", "training and evaluation", "outside")
    for trial in trials:
        assert trial.datetime_start
        assert trial.datetime_complete
        total = (trial.datetime_complete - trial.datetime_start).total_seconds()
        training = watch.training[f"trial {trial.number}"]
        table.add_row(str(trial.number), f"{total:.1f}", f"{training:.1f}", f"{1 - training / total:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
