"""Predicted and measured memory and time of an update on this machine's GPU, eager and compiled."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from _plan_time import spearman

from archlab.config.experiment import Experiment, load
from archlab.ops.triton import register_triton_backends
from archlab.planning.device import Device
from archlab.planning.plan import Plan, plan
from archlab.planning.this_device import find_device
from archlab.runtime.determinism import deterministic_algorithms
from archlab.runtime.timing import best_time
from archlab.training.step import TrainStep, prepare_experiment

# A few layers of the published widths, so that all fit a card of 40 GB.
SIZES = {
    "llama2_7b": (2, 2048, 4),
    "megalodon_200m": (12, 2048, 4),
    "megalodon_7b": (2, 2048, 4),
    "mamba_130m": (8, 2048, 4),
    "mamba2_130m": (8, 2048, 4),
    "rwkv7_0b1": (4, 2048, 4),
    "gla_1b3": (4, 2048, 4),
    "gated_delta_net_1b3": (4, 2048, 4),
    "retnet_1b3": (4, 2048, 4),
    "transformer_base": (12, 1024, 8),
    "mega_wt103": (8, 2048, 4),
}
COMPILED = ("llama2_7b", "megalodon_200m", "rwkv7_0b1")  # compiling takes a minute each
ROUNDS = 5
HEADING = (
    f"{'':29} {'tokens/s: plan, here, ratio':>28} {'GB of tensors: ditto':>22} {'GB in all':>15} {'ms':>9}"
    f" {'ms of compute, memory, launch':>26}"
)


@dataclass(frozen=True)
class Case:
    """An architecture as it is trained, its plan for this card, and what an update took."""

    name: str
    compiled: bool
    planned: Plan
    seconds: float
    tensors: int
    used: int

    def line(self) -> str:
        """Return the row of the table."""
        memory, spent = self.planned.memory, self.planned.time
        planned, measured = self.planned.tokens_per_s, self.planned.tokens_per_update / self.seconds
        speeds = f"{planned:10,.0f} {measured:10,.0f} {planned / measured:6.2f}"
        tensors = f"{memory.tensors / 1e9:7.2f} {self.tensors / 1e9:7.2f} {memory.tensors / self.tensors:6.2f}"
        whole = f"{memory.total / 1e9:7.2f} {self.used / 1e9:7.2f}"
        terms = f"{spent.compute * 1e3:8.1f} {spent.memory * 1e3:8.1f} {spent.launch * 1e3:8.1f}"
        how = "compiled" if self.compiled else "eager"
        return f"{self.name:20} {how:8} {speeds} {tensors} {whole} {self.seconds * 1e3:9.1f} {terms}"


def cases(names: tuple[str, ...], card: Device) -> Iterator[Case]:
    """Yield each architecture's case as it is measured, eager ones first."""
    for compiled in (False, True):
        for name in names:
            if not compiled or name in COMPILED:
                yield _case(name, compiled, card)


def _case(name: str, compiled: bool, card: Device) -> Case:
    experiment = _experiment(name, compiled)
    planned = plan(experiment, device=card)
    torch.cuda.reset_peak_memory_stats()
    with deterministic_algorithms():  # as `train` does
        step = TrainStep(prepare_experiment(experiment))
        step()
        step()
        seconds = best_time(step, torch.device("cuda"), ROUNDS)
    free, total = torch.cuda.mem_get_info()
    case = Case(name, compiled, planned, seconds, torch.cuda.max_memory_allocated(), total - free)
    del step
    gc.collect()
    torch.cuda.empty_cache()
    return case


def _experiment(name: str, compiled: bool) -> Experiment:
    layers, context, batch_size = SIZES[name]
    sizes = (f"model.layers[0].repeat={layers}", f"train.context={context}", f"train.batch_size={batch_size}")
    how = f"train.compile={'block' if compiled else 'off'}"
    fixed = ("task=stdlib", "parallel=null", "train.accumulate=1", "train.device=cuda")
    return load(name, [*fixed, *sizes, how, "train.precision=bfloat16", "train.checkpoint_activations=false"])


def report_gpu() -> None:
    """Print predicted and measured tokens/s and memory of each case, and how well they are ordered."""
    card = find_device("cuda") if torch.cuda.is_available() else None
    if card is None:
        print("this table is of a machine with a GPU that a device file knows", file=sys.stderr)
        sys.exit(2)
    register_triton_backends()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, planned as {card.name}")
    print(HEADING)
    found = []
    for case in cases(tuple(SIZES), card):
        found.append(case)
        print(case.line(), flush=True)
    planned = [case.planned.seconds_per_update / case.planned.tokens_per_update for case in found]
    measured = [case.seconds / case.planned.tokens_per_update for case in found]
    print(f"Spearman of the time of a token over all {len(found)}: {spearman(planned, measured):.3f}")
