"""The best learning rate at four widths, standard and transferred, for LLaMA and Megalodon.

    python benchmarks/transfer.py --out runs/transfer     # 2 models, 7 sizes, 6 rates; it continues if stopped

Hyperparameters transfer if the best learning rate is the same at every width, so that it can be tuned at the least one.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import archlab

WIDTHS = (32, 64, 128, 256)
RATES = tuple(2.0**power for power in (-11, -10, -9, -8, -7, -6))
TRAIN = (
    "steps=80 batch_size=4 context=64 warmup=8 eval_tokens=8192 eval_every=0 checkpoint_every=0"
    " precision=float32 compile=off tensorboard=false log_every=80"
)
# Sizes at width 64, of which widths and, where they divide, heads are scaled.
MODELS = {
    "llama2_tiny": {"mixer.num_heads": 0.0625, "ffn.hidden_dim": 3},
    "megalodon_tiny": {"mixer.shared_dim": 0.5, "mixer.value_dim": 2, "ffn.hidden_dim": 2.5},
}


def overrides(model: str, width: int, rate: float, parametrization: str) -> list[str]:
    """Return an experiment's overrides; muP's base is the least width."""
    sizes = [f"model.layers[*].{knob}={round(width * share)}" for knob, share in MODELS[model].items()]
    scheme = [f"train.parametrization={parametrization}", f"train.base_width={WIDTHS[0]}"]
    train = [f"train.{setting}" for setting in TRAIN.split()]
    return [f"model.dim={width}", "model.layers[0].repeat=2", *sizes, *train, *scheme, f"train.lr={rate!r}"]


def val_loss(model: str, width: int, rate: float, parametrization: str, folder: Path) -> float:
    """Train one model, or read its loss if it has been trained; infinite if it diverged."""
    if width == WIDTHS[0]:  # the base is trained as under standard, bit for bit
        parametrization = "standard"
    out, file = folder / f"{model}-{parametrization}-{width}-{math.log2(rate):.0f}", folder / "losses.json"
    losses: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    if out.name not in losses:
        try:
            run = archlab.train(model, overrides(model, width, rate, parametrization), out=out, force=True)
            losses[out.name] = run.metrics["val_loss"]
        except archlab.TrainingError:
            losses[out.name] = math.inf
        file.write_text(json.dumps(losses, indent=1))
    return losses[out.name]


def main() -> None:
    """Print a table for each model and parametrization."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for model in args.models:
        for parametrization in ("standard", "mup"):
            print(f"\n{model}, {parametrization}: validation loss by width and log2 of the learning rate")
            print("width |" + "".join(f"{math.log2(rate):>8.0f}" for rate in RATES) + " | best")
            for width in WIDTHS:
                losses = [val_loss(model, width, rate, parametrization, args.out) for rate in RATES]
                best = math.log2(RATES[losses.index(min(losses))])
                print(f"{width:5} |" + "".join(f"{loss:8.3f}" for loss in losses) + f" | {best:.0f}", flush=True)


if __name__ == "__main__":
    main()
