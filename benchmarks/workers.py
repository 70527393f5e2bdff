"""Trials per hour of a search with one worker and with several, in interleaved runs.

python benchmarks/workers.py [SPACE [PATH=VALUE ...]] [--trials N] [--rounds N]    the quickstart by default

On two cores the quickstart takes two hours, and a quarter of one with train.steps=30 --trials 4 --rounds 2.

Each search runs the same trials, with the threads of the machine shared out among its workers. It is timed from the
end of the baseline, which one worker trains, to the start of the last trial, after which workers wait for each other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

# The same trials for everyone: nothing is pruned, and what is tried does not depend on what was found.
SAME = ("study.sampler=random", "study.pruner=none", "train.compile=off")


def search(space: str, overrides: Sequence[str], workers: int, threads: int, folder: Path) -> float:
    """Return the trials per hour of one search."""
    command = [str(Path(sys.executable).with_name("archlab")), "search", space, *SAME, *overrides]
    command += ["--out", str(folder), "--workers", str(workers)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return trials_per_hour(folder)


def trials_per_hour(folder: Path) -> float:
    """Return how many trials a search completed in an hour, while all of its workers had trials to train."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")
    times = [(trial.datetime_start, trial.datetime_complete) for trial in study.trials]
    spans = [(begin, end) for begin, end in times if begin and end]
    # One worker trains the baseline while the others begin with the trials, and after the last begin workers wait.
    first = max(min(begin for begin, _ in spans), _time_of(folder / "baseline" / "result.json"))
    last = max(begin for begin, _ in spans)
    done = sum((min(end, last) - max(begin, first)) / (end - begin) for begin, end in spans if begin < last)
    return 3600 * done / (last - first).total_seconds()


def _time_of(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", default="quickstart")
    parser.add_argument("overrides", nargs="*", metavar="PATH=VALUE")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    arguments = parse_arguments()
    space, overrides = arguments.space, [*arguments.overrides, f"study.trials={arguments.trials}"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    kinds = {f"{cores} workers of one thread": (cores, 1), "one of one thread": (1, 1)}
    kinds[f"one of {cores} threads"] = (1, cores)
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(arguments.rounds):
        for name, (workers, threads) in kinds.items():
            with tempfile.TemporaryDirectory() as folder:
                rates[name].append(search(space, overrides, workers, threads, Path(folder) / "s"))
    title = f"{space}, {arguments.trials} trials, {arguments.rounds} rounds"
    table = Table("workers", "trials an hour", "of one of one thread", title=title)
    alone = statistics.median(rates["one of one thread"])
    for name, each in rates.items():
        table.add_row(name, f"{statistics.median(each):.1f}", f"{statistics.median(each) / alone:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
