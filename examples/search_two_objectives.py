"""Search with two objectives: the validation loss and the number of parameters, and print the Pareto front."""

from __future__ import annotations

import sys
from pathlib import Path

import archlab

SPACE = {
    "base": "quickstart",
    "override": {
        "train.steps": 4,
        "train.context": 32,
        "train.eval_tokens": 256,
        "train.compile": "off",
        "task.eval_bytes": 4096,  # the best trial and the baseline are evaluated on all of them at the end
    },
    "vary": {
        "model.layers[*].mixer.ema": ["cema", "ema", "none"],
        "model.layers[*].ffn.hidden_dim": [32, 64],
        "train.lr": {"low": 1e-3, "high": 1e-2, "log": True},
    },
    "objectives": {"val_loss": "minimize", "params": "minimize"},
    "constraints": ["params <= 2e6"],
    "study": {"sampler": "nsga2", "trials": 3, "seed": 1},
}


def main(out: Path) -> None:
    """Search, and print the trials of the Pareto front."""
    result = archlab.search(SPACE, out=out, callbacks=[archlab.SearchProgressBar()])
    print(f"Pareto front: trials {result.summary.pareto}")
    best = result.summary.best_trial
    if best is not None:
        loss, params = best.metrics["val_loss"], best.metrics["params"]
        print(f"lowest loss: {loss:.3f}, with {params:,.0f} parameters, of trial {best.trial}")
        for path, value in best.values.items():
            print(f"  {path}: {value}")
    print(f"report: {archlab.report(result.folder)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/search_two_objectives"))
