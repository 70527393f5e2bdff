"""How OpenMP's threads wait for work: a training step alone, beside busy processes, and beside a second one.

python benchmarks/threads.py [NAME=VALUE ...]    for example OMP_WAIT_POLICY=active or GOMP_SPINCOUNT=10000
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROUNDS = 6
# What libgomp does without any variable is written out: archlab sets one for its own processes.
UNSET = "GOMP_SPINCOUNT=300000"
SETTINGS = (UNSET, "GOMP_SPINCOUNT=30000", "GOMP_SPINCOUNT=3000", "OMP_WAIT_POLICY=passive")
BUSY = (sys.executable, "-S", "-c", "while True: pass")


class Trainer:
    """A process that runs training steps when it is asked to, under one setting, with a thread for each core."""

    def __init__(self, setting: str) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        name, _, value = setting.partition("=")
        command = [sys.executable, __file__, "--steps"]
        self._process: subprocess.Popen[str] = subprocess.Popen(
            command, env=env | {name: value}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self) -> None:
        """Begin a step."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def seconds(self) -> float:
        """Return the seconds of the step that was asked for."""
        assert self._process.stdout
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve() -> None:
    """Run a step for each line of standard input; print its seconds."""
    import torch
    from _models import MEGALODON, ours, tokens, training_step

    from archlab.runtime.timing import time_call

    step = training_step(ours("megalodon_tiny", MEGALODON, "off"), tokens(256, 1))
    step()
    for _ in sys.stdin:
        print(time_call(step, torch.device("cpu")), flush=True)


@contextmanager
def resume(processes: list[subprocess.Popen[Any]]) -> Any:
    """Let processes that are stopped run for the length of a block."""
    for process in processes:
        process.send_signal(signal.SIGCONT)
    yield
    for process in processes:
        process.send_signal(signal.SIGSTOP)


def alone(pair: list[Trainer], busy: list[subprocess.Popen[Any]]) -> float:
    """Return the seconds of a step with nothing of this benchmark beside it."""
    pair[0].ask()
    return pair[0].seconds()


def beside_busy(pair: list[Trainer], busy: list[subprocess.Popen[Any]]) -> float:
    """Return the seconds of a step beside as many busy processes as there are cores."""
    with resume(busy):
        return alone(pair, busy)


def beside_another(pair: list[Trainer], busy: list[subprocess.Popen[Any]]) -> float:
    """Return the seconds of a step beside the same step of a second process."""
    for trainer in pair:
        trainer.ask()
    return max(trainer.seconds() for trainer in pair)


SCENES: tuple[Callable[..., float], ...] = (alone, beside_busy, beside_another)


def main() -> None:
    """Measure each setting in each scene, interleaved; print the shortest times."""
    settings = [*SETTINGS, *sys.argv[1:]]
    trainers = {setting: [Trainer(setting), Trainer(setting)] for setting in settings}
    busy: list[subprocess.Popen[Any]] = [subprocess.Popen(BUSY) for _ in os.sched_getaffinity(0)]
    with resume(busy):
        pass
    try:
        show(settings, measure(trainers, busy))
    finally:
        for process in (trainer for pair in trainers.values() for trainer in pair):
            process.close()
        for burner in busy:
            burner.kill()
            burner.wait()


def measure(trainers: dict[str, list[Trainer]], busy: list[subprocess.Popen[Any]]) -> dict[tuple[str, Any], float]:
    """Return the shortest seconds of a step by setting and scene, over interleaved rounds."""
    best: dict[tuple[str, Any], float] = {}
    for _ in range(ROUNDS):
        for scene in SCENES:
            for setting, pair in trainers.items():
                seconds = scene(pair, busy)
                best[setting, scene] = min(best.get((setting, scene), seconds), seconds)
    return best


def show(settings: list[str], best: dict[tuple[str, Any], float]) -> None:
    """Print milliseconds a step."""
    table = Table("ms a step", *(scene.__name__ for scene in SCENES), box=None)
    for setting in settings:
        note = " (libgomp's own)" if setting == UNSET else ""
        table.add_row(setting + note, *(f"{1000 * best[setting, scene]:,.0f}" for scene in SCENES))
    Console(width=110).print(table)


if __name__ == "__main__":
    if not Path("/proc").is_dir():
        sys.exit("this comparison is one of libgomp, on Linux")
    serve() if "--steps" in sys.argv else main()
