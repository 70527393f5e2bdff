"""Validation losses of training in bfloat16 and in float32, over several seeds.

python benchmarks/precision.py [EXPERIMENT [PATH=VALUE ...]]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from archlab import api

PRECISIONS, SEEDS = ("float32", "bfloat16"), (0, 1, 2)


def losses(experiment: str, overrides: list[str], directory: Path) -> dict[int, float]:
    """Train an experiment, and return its validation losses by step."""
    api.train(experiment, overrides, out=directory)
    records = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record["val_loss"] for record in records if "val_loss" in record}


def main() -> None:
    """Train an experiment, by default the tiny Megalodon, and print both curves."""
    experiment, *overrides = sys.argv[1:] or ["megalodon_tiny"]
    runs: dict[str, list[dict[int, float]]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as directory:
        for seed in SEEDS:
            for precision in PRECISIONS:
                settings = [*overrides, f"train.precision={precision}", f"train.seed={seed}"]
                runs[precision].append(losses(experiment, settings, Path(directory) / f"{precision}-{seed}"))
    print(
        f"Validation loss of {experiment}, nats, mean of {len(SEEDS)} seeds, and the deviation between seeds in float32"
    )
    table = Table("step", *PRECISIONS, "difference", "deviation", box=None)
    for step in runs["float32"][0]:
        single, half = ([run[step] for run in runs[precision]] for precision in PRECISIONS)
        numbers = mean(single), mean(half), mean(half) - mean(single), stdev(single)
        table.add_row(str(step), *(f"{number:.4f}" for number in numbers))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
