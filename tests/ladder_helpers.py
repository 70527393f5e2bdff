"""Small ladders, and a fake training whose losses follow a planted law."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from run_helpers import CLOCK
from search_helpers import write_space

from archlab.config.experiment import Experiment
from archlab.searching.ladder.run import LadderResult, run_ladder
from archlab.searching.ladder.sizes import size_of
from archlab.searching.space.load_space import load_space
from archlab.training.callbacks import Callback
from archlab.training.run_dir import open_run
from archlab.training.trainer import TrainResult

EMA = {"model.layers[*].mixer": {"type": "ema"}}
CANDIDATES: dict[str, Any] = {"megalodon": {}, "averages": EMA}
RUNGS: list[dict[str, Any]] = [
    {"set": {"model.dim": 16}, "tokens": 320, "seeds": 2},
    {"set": {"model.dim": 24}, "tokens": 640},
]


def write_ladder(folder: Path, **keys: Any) -> Path:
    """Write a ladder of two candidates on two rungs around a model with one small layer; return its file."""
    return write_space(folder, **{"vary": {}, "candidates": CANDIDATES, "rungs": RUNGS, **keys})


def climb(file: Path, out: Path, **options: Any) -> LadderResult:
    """Run a ladder in a directory."""
    return run_ladder(load_space(file), out, **options)


def pretend(loss: Callable[[Experiment, float], float] | None = None) -> Callable[..., TrainResult]:
    """Return a fake training whose losses fall with parameters and tokens, of the averages fastest."""

    def train(experiment: Experiment, folder: Path, *, callbacks: Sequence[Callback] = (), **_: Any) -> TrainResult:
        value = (loss or law)(experiment, float(size_of(experiment)))
        open_run(experiment, folder, resume=True, force=False)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": experiment.train.steps, "val_loss": value}) + "\n")
        (folder / "final").mkdir()
        return TrainResult(folder, {"val_loss": value})

    return train


def law(experiment: Experiment, params: float) -> float:
    """Return a planted loss, with a little noise of the seed."""
    train, name = experiment.train, experiment.name.split("_")[0]
    A, a = {"megalodon": (20.0, 0.3), "averages": (100.0, 0.45)}.get(name, (25.0, 0.3))
    tokens = train.steps * train.batch_size * train.accumulate * train.context
    noise = 1 + 0.002 * math.sin(100 * train.seed + len(name))
    return noise * (1.5 + A / params**a + 30 / tokens**0.4)


def losses_in(out: Path) -> Mapping[str, str]:
    """Return the metrics of every run, without the times that differ between machines."""
    found = {}
    for file in sorted(out.glob("rungs/*/*/seed_*/metrics.jsonl")):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        kept = [{k: v for k, v in record.items() if k not in CLOCK} for record in records]
        found[str(file.relative_to(out))] = json.dumps(kept)
    return found
