"""Time from `archlab train` to the end of the first training step: eager, and compiled with a warm or an empty cache.

python benchmarks/startup.py [EXPERIMENT]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import Row, show

ROUNDS = 3
COMMAND = str(Path(sys.executable).with_name("archlab"))
QUIET = ("train.log_every=1", "train.eval_every=0", "train.steps=100000", "train.tensorboard=false")


def seconds(experiment: str, policy: str, cache: Path) -> float:
    """Return the seconds until a run writes its first record; the run is then killed."""
    with tempfile.TemporaryDirectory() as directory:
        command = [COMMAND, "train", experiment, *QUIET, f"train.compile={policy}"]
        records, begin = Path(directory) / "run" / "metrics.jsonl", time.perf_counter()
        run = subprocess.Popen(
            [*command, "--out", str(records.parent)],
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache)},
            stdout=subprocess.DEVNULL,
        )
        while run.poll() is None and not (records.is_file() and records.stat().st_size):
            time.sleep(0.02)
        elapsed, failed = time.perf_counter() - begin, run.poll()
        if failed is not None:
            sys.exit(failed)
        run.kill()
        run.wait()
        return elapsed


def main() -> None:
    """Measure an experiment, by default the tiny Megalodon."""
    experiment = sys.argv[1] if len(sys.argv) > 1 else "megalodon_tiny"
    with tempfile.TemporaryDirectory() as directory:
        cold = seconds(experiment, "block", Path(directory))
        pairs = [[seconds(experiment, policy, Path(directory)) for policy in ("block", "off")] for _ in range(ROUNDS)]
    warm, eager = (min(side) for side in zip(*pairs, strict=True))
    rows = [
        Row("warm compile cache over eager", 1000 * warm, 1000 * eager, "ms", "at most 2"),
        Row("empty compile cache over eager", 1000 * cold, 1000 * eager, "ms", ""),
    ]
    show(f"From `archlab train {experiment}` to the first training step", rows)


if __name__ == "__main__":
    main()
