"""A context cut over ranks that all compute at once, against the same by the relay, in processes of this machine.

Beside the seconds of an update stands the processor time of a rank, which what else runs on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import time
from unittest.mock import patch

from archlab.config.experiment import load
from archlab.parallel.ranks import Ranks
from archlab.parallel.session import Session
from archlab.testing.rank_pool import rank_pool
from archlab.training import step as training_step
from archlab.training.step import TrainStep, prepare_experiment

UPDATES = 3


def seconds_of_update(session: Session, name: str, overrides: list[str], carried: bool) -> tuple[float, float]:
    """Return the least seconds, and processor seconds, of an update in which ranks compute at once, or by the relay."""
    experiment = prepare_experiment(load(name, overrides), processes=session.place.count)
    assert experiment.parallel is not None
    layout = experiment.parallel.layout(session.place.count)
    with patch.object(training_step, "can_carry", lambda model: carried):
        step = TrainStep(experiment, Ranks(layout, session))
    step()
    times = []
    for _ in range(UPDATES):
        begin = time.perf_counter(), time.process_time()
        step()
        times.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    walls, busy = zip(*times, strict=True)
    return min(walls), min(busy)


def main() -> None:
    """Print the seconds of both for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", nargs="?", default="megalodon_tiny")
    parser.add_argument("overrides", nargs="*", metavar="PATH=VALUE")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    common = [f"parallel.chunk={arguments.processes}", "train.compile=off", *arguments.overrides]
    for batch_size in (1, 2, 4):
        overrides = [*common, f"train.batch_size={batch_size}", "train.accumulate=1"]
        lines = []
        for what, carried in (("at once", True), ("relay", False)):
            ranks = rank_pool().run(arguments.processes, seconds_of_update, arguments.experiment, overrides, carried)
            walls, busy = zip(*ranks, strict=True)
            lines.append(f"{what} {max(walls):.3f} s, of the processor {max(busy):.3f} s")
        print(f"batch {batch_size}: {'; '.join(lines)}")


if __name__ == "__main__":
    main()
