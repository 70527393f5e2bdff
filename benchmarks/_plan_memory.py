"""The memory of training processes as it is planned for this machine, beside what is measured."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

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


def report_memory() -> None:
    """Print predicted and measured peak memory of each case as it is measured, and how many came within 10 %."""
    ratios = []
    print(f"{'architecture':16} {'precision':9} {'checkpointed':12} {'predicted':>9} {'measured':>9} ratio")
    for name, precision, checkpointed in product(ARCHITECTURES, ("float32", "bfloat16"), (False, True)):
        case = Case(name, precision, checkpointed)
        predicted, measured = case.predicted_bytes(), case.measured_bytes()
        ratios.append(predicted / measured)
        sizes = (f"{size / 1e6:6.0f} MB" for size in (predicted, measured))
        print(f"{name:16} {precision:9} {str(checkpointed).lower():12}", *sizes, f"{ratios[-1]:.2f}", flush=True)
    near = sum(abs(ratio - 1) <= 0.1 for ratio in ratios)
    print(f"{near} of {len(ratios)} within 10 %, the worst {max(abs(ratio - 1) for ratio in ratios):.0%}")
