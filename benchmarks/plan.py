"""Predictions of `archlab plan` for this machine beside what is measured.

python benchmarks/plan.py memory [ARCHITECTURE ...]
python benchmarks/plan.py time
python benchmarks/plan.py megalodon
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from _plan_megalodon import report_megalodon
from _plan_time import report_time
from rich.console import Console
from rich.table import Table

from archlab.config.experiment import load
from archlab.modeling.step_trace import trace_step
from archlab.planning.memory import resident_bytes

COMMAND = str(Path(sys.executable).with_name("archlab"))
FIXED = ("train.steps=3", "train.compile=off", "train.device=cpu", "train.eval_tokens=512")
ARCHITECTURES = {
    "llama2": ("llama2_tiny",),
    "megalodon": ("megalodon_tiny", "train.batch_size=4"),
    "mamba": ("mamba_tiny",),
    "mamba2": ("mamba2_tiny", "train.batch_size=4", "train.context=1024"),
    "rwkv7": ("rwkv7_tiny", "train.batch_size=4", "train.context=256"),
    "rwkv4": ("rwkv4_tiny", "train.batch_size=16", "train.context=256"),
    "gla": ("gla_tiny", "model.dim=256"),
    "gated_delta_net": ("gated_delta_net_tiny", "train.batch_size=4"),
    "retnet": ("retnet_tiny", "train.context=256"),
    "mega": ("mega_tiny", "train.batch_size=4"),
    "hybrid": ("hybrid_tiny",),
    "transformer_xl": ("transformer_xl_tiny", "model.dim=512", "train.batch_size=4"),
}


@dataclass(frozen=True)
class Case:
    """An architecture in a precision, with or without activation checkpointing."""

    name: str
    precision: str
    checkpointed: bool

    @property
    def overrides(self) -> list[str]:
        """Return the experiment's name and overrides."""
        settings = f"train.precision={self.precision}", f"train.checkpoint_activations={self.checkpointed}".lower()
        return [*ARCHITECTURES[self.name], *FIXED, *settings]

    def predicted_bytes(self) -> int:
        """Return the peak resident bytes by the plan."""
        experiment = load(self.overrides[0], self.overrides[1:])
        return resident_bytes(trace_step(experiment), experiment)

    def measured_bytes(self) -> int:
        """Return the peak resident bytes of a training run of three steps in a process of its own."""
        with tempfile.TemporaryDirectory() as folder:
            command = [COMMAND, "train", *self.overrides, "--out", f"{folder}/run"]
            run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(run.pid, 0)
        if status:
            sys.exit(os.waitstatus_to_exitcode(status))
        return usage.ru_maxrss * 1024


def memory(names: list[str]) -> None:
    """Print predicted and measured peak memory of each case."""
    table = Table("architecture", "precision", "checkpointed", "predicted", "measured", "ratio")
    for name, precision, checkpointed in product(names, ("float32", "bfloat16"), (False, True)):
        case = Case(name, precision, checkpointed)
        predicted, measured = case.predicted_bytes(), case.measured_bytes()
        sizes = (f"{size / 1e6:.0f} MB" for size in (predicted, measured))
        table.add_row(name, precision, str(checkpointed).lower(), *sizes, f"{predicted / measured:.2f}")
    Console().print(table)


PARTS = {"memory": memory, "time": lambda _: report_time(), "megalodon": lambda _: report_megalodon()}


if __name__ == "__main__":
    part, *wanted = sys.argv[1:] or ["memory"]
    PARTS[part](wanted or list(ARCHITECTURES))
