"""A study of many trials whose workers are killed at random, held against the same trials trained alone.

python benchmarks/soak.py [--trials 60] [--workers 4] [--kill-every 20] [--storage journal] [--alone 10]
    [--storage postgresql://me@host/searches --database-down "COMMAND" --database-up "COMMAND"]

Every so many seconds one worker, or the process of its trial, gets SIGKILL, and another SIGTERM; whoever has ended is
started again. Two commands stop a database and start it again 30 seconds later, twice. At the end every candidate is
complete, once, and some of them, trained again alone, have the same loss.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from optuna.trial import FrozenTrial

import archlab
from archlab.searching.space.load_space import load_space
from archlab.searching.study.study import is_interrupted, open_study
from archlab.searching.study.workers import read_workers

LAYER = {"norm": "rms", "mixer": {"type": "attention", "num_heads": 2}, "ffn": {"type": "swiglu", "hidden_dim": 32}}
TRAIN = {"steps": 200, "batch_size": 4, "context": 64, "warmup": 10, "eval_every": 100, "eval_tokens": 512}
OUTAGE_S = 30
RUN = {"device": "cpu", "precision": "float32", "compile": "off", "tensorboard": False, "checkpoint_every": 50}


def write_space(folder: Path, arguments: argparse.Namespace) -> Path:
    """Write a space of small models; return its file."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 300)
    model = {"type": "stack", "vocab_size": 256, "dim": 16, "layers": [LAYER]}
    base = {"model": model, "task": {"type": "text", "path": str(folder / "text.txt")}, "train": {**TRAIN, **RUN}}
    study = {"sampler": "random", "trials": arguments.trials, "pruner": "none", "storage": arguments.storage}
    vary = {"train.lr": {"low": 0.001, "high": 0.1, "log": True}, "model.layers[*].norm": ["rms", "layer"]}
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump({"base": base, "vary": vary, "study": study}))
    return file


class Workers:
    """Processes that work on one search, each started again when it has ended."""

    def __init__(self, file: Path, folder: Path, count: int) -> None:
        self.command = [sys.executable, "-m", "archlab", "search", str(file), "--out", str(folder), "--workers", "1"]
        self.env, self.folder = {**os.environ, "OMP_NUM_THREADS": "1"}, folder
        self.all = [self._start() for _ in range(count)]
        self.random, self.signals = random.Random(0), {"KILL": 0, "KILL of a trial": 0, "TERM": 0}

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder.parent / "output.log").open("ab") as log:
            return subprocess.Popen(self.command, env=self.env, stdout=log, stderr=log)

    def keep(self) -> bool:
        """Start again who was ended; return whether any works on."""
        self.all = [self._start() if worker.poll() not in (None, 0) else worker for worker in self.all]
        return any(worker.poll() is None for worker in self.all)

    def hurt(self) -> None:
        """Send SIGKILL to a worker or its trial's process, and SIGTERM to another."""
        working = [worker.pid for worker in read_workers(self.folder) if worker.state == "working"]
        if not working:
            return
        victim, *others = self.random.sample(working, k=min(2, len(working)))
        trial = self.random.random() < 0.5 and _trial_process(victim)
        with suppress(ProcessLookupError):
            os.kill(trial or victim, signal.SIGKILL)
            self.signals["KILL of a trial" if trial else "KILL"] += 1
            for other in others:
                os.kill(other, signal.SIGTERM)
                self.signals["TERM"] += 1


def _trial_process(worker: int) -> int:
    """Return the newest process that a worker's server has forked, or 0."""
    grandchildren = [pid for child in _children(worker) for pid in _children(child)]
    return max(grandchildren, default=0)


def _children(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


class Outages:
    """Stops the database at given times, each for 30 seconds."""

    def __init__(self, down: str | None, up: str | None) -> None:
        self.down, self.up = down, up
        self.times = [60.0, 150.0] if down and up else []
        self.back: float | None = None
        self.count = 0

    def poll(self, now: float) -> None:
        """Stop or start the database if it is time to; `now` in seconds since the begin."""
        if self.back is not None and now >= self.back:
            self.back = None
            subprocess.run(str(self.up), shell=True, check=True)
        elif self.back is None and self.times and now >= self.times[0]:
            self.times.pop(0)
            self.back, self.count = now + OUTAGE_S, self.count + 1
            subprocess.run(str(self.down), shell=True, check=True)


def differing_trials(trials: list[FrozenTrial], folder: Path, count: int) -> list[int]:
    """Train some trials again alone; return those that reach another loss."""
    torch.set_num_threads(1)  # as the trials had: another number may round otherwise
    wrong = []
    for trial in random.Random(1).sample(trials, k=min(count, len(trials))):
        run = folder / "trials" / f"{trial.number:04d}" / "experiment.yaml"
        again = archlab.train(run, out=folder.parent / f"again{trial.number}")
        if again.metrics["val_loss"] != trial.value:
            wrong.append(trial.number)
    return wrong


def main() -> None:
    """Run the search and print its results; exit with 1 unless all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=20)
    parser.add_argument("--storage")
    parser.add_argument("--alone", type=int, default=10)
    parser.add_argument("--database-down", metavar="COMMAND")
    parser.add_argument("--database-up", metavar="COMMAND")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "s"
        workers, begin = Workers(write_space(Path(place), arguments), folder, arguments.workers), time.monotonic()
        last, outages = begin, Outages(arguments.database_down, arguments.database_up)
        while workers.keep() or outages.back is not None:
            time.sleep(0.5)
            outages.poll(time.monotonic() - begin)
            if time.monotonic() - last > arguments.kill_every:
                last = time.monotonic()
                workers.hurt()
        print(f"{time.monotonic() - begin:.0f} s; signals: {workers.signals}; outages: {outages.count}")
        study = open_study(load_space(folder / "search.yaml", recorded=True), folder)
        ended = [trial for trial in study.get_trials() if not is_interrupted(trial)]
        complete = [trial for trial in ended if trial.state.name == "COMPLETE"]
        candidates = {trial.user_attrs["candidate"] for trial in complete}
        wrong = differing_trials(complete, folder, arguments.alone)
        print(
            f"{len(ended)} trials, {len(complete)} complete, {len(candidates)} different; other losses alone: {wrong}"
        )
        for trial in ended:
            if trial not in complete:
                print(f"trial {trial.number}: {trial.state.name}: {trial.user_attrs.get('reason')}")
        sys.exit(bool(wrong) or not len(ended) == len(complete) == len(candidates) == arguments.trials)


if __name__ == "__main__":
    main()
