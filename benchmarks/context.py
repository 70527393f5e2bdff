"""A context cut over ranks that all compute at once, against the same by the relay, in processes of this machine."""

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


def seconds_of_update(session: Session, name: str, overrides: list[str], carried: bool) -> float:
    """Return the least seconds of an update in which ranks compute at once, or by the relay."""
    experiment = prepare_experiment(load(name, overrides), processes=session.place.count)
    assert experiment.parallel is not None
    layout = experiment.parallel.layout(session.place.count)
    with patch.object(training_step, "can_carry", lambda model: carried):
        step = TrainStep(experiment, Ranks(layout, session))
        step()
        times = []
        for _ in range(UPDATES):
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    """Print the seconds of both for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", nargs="?", default="megalodon_tiny")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    common = [f"parallel.chunk={arguments.processes}", "train.compile=off", *arguments.overrides]
    for batch_size in (1, 2, 4):
        overrides = [*common, f"train.batch_size={batch_size}", "train.accumulate=1"]
        run = [
            max(rank_pool().run(arguments.processes, seconds_of_update, arguments.experiment, overrides, carried))
            for carried in (True, False)
        ]
        print(f"batch {batch_size}: at once {run[0]:.3f} s, relay {run[1]:.3f} s, {run[1] / run[0]:.2f} x")


if __name__ == "__main__":
    main()
