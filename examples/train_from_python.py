"""Train, resume, evaluate and generate without the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import archlab


def main(out: Path) -> None:
    """Train a small model, and use it."""
    small = [
        "train.steps=6",
        "train.context=32",
        "train.checkpoint_every=3",
        "train.eval_tokens=256",
        "train.compile=off",
    ]
    experiment = archlab.load("quickstart", small)
    print(f"{experiment.name}: {archlab.show(experiment).params:,} parameters")

    run = archlab.train(experiment, out=out, callbacks=[archlab.ProgressBar()])
    again = archlab.train(experiment, out=out, resume=True)  # at its last step already: nothing is left to do
    assert again.metrics["val_loss"] == run.metrics["val_loss"]

    result = archlab.evaluate(run.folder, split="validation", max_tokens=512)
    print(f"{result.metrics['bpb']:.3f} bits per byte on {result.tokens:,} tokens")
    print("def " + "".join(archlab.generate(run.folder, "def ", max_new_tokens=20)))

    try:
        archlab.load("quickstart", ["model.layers[0].mixer.ema=cemaa"])
    except archlab.ConfigError as error:
        print(f"a mistake is told in one line, with the nearest name:\n{error}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/train_from_python"))
