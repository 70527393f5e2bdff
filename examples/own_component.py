"""A component of your own: a moving average with one decay for all channels, checked, trained and exported.

A component registers itself when its file is imported; YAML names the file under `plugins:`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import archlab
from archlab import Fraction, Param, Recurrent, State, interval, register


@register("ema", "shared_decay", search={"start": interval(0.5, 0.99)}, params={"decay": Param("vector")})
class SharedDecay(Recurrent):
    """y_t = a y_{t-1} + (1 - a) x_t, with one learned a for all channels.

    x: [B, T, D] -> [B, T, D].  State: last [B, D].

    Args:
        start: Value of a before training.
    """

    def __init__(self, dim: int, *, start: Fraction = 0.9) -> None:
        super().__init__()
        self.dim = dim
        self.decay = nn.Parameter(torch.tensor(start))

    def init_state(self, batch_size: int) -> State:
        """Return an average of nothing: zeros."""
        return {"last": self.decay.new_zeros(batch_size, self.dim)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the average at every step, and the last one as the state."""
        last, outputs = (state or self.init_state(len(x_BTD)))["last"], []
        for x_BD in x_BTD.unbind(1):
            last = self.decay * last + (1 - self.decay) * x_BD
            outputs.append(last)
        return torch.stack(outputs, 1), {"last": last}


def main(out: Path) -> None:
    """Check the component, train a small model with it, and export the model."""
    for result in archlab.check("ema", "shared_decay", plugin=__file__):
        assert result.passed, f"{result.name}: {result.problem}"
        print(f"passed  {result.name}")
    experiment = {
        "base": "quickstart",
        "plugins": [str(Path(__file__).resolve())],
        "override": {"model.layers[*].mixer.ema": {"type": "shared_decay", "start": 0.8}},
        "train": {"steps": 4, "context": 32, "eval_tokens": 256, "compile": "off"},
    }
    run = archlab.train(experiment, out=out / "run", callbacks=[archlab.ProgressBar()])
    print(f"validation loss {run.metrics['val_loss']:.3f} after {run.metrics['step']:.0f} steps")
    print(f"exported to {archlab.export(run.folder, out / 'export')}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own_component"))
