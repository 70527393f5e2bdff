"""Predicted and measured time of an update on this machine's CPU, over twelve architectures in four settings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from rich.console import Console
from rich.table import Table

from archlab.config.experiment import Experiment, load
from archlab.planning.plan import plan
from archlab.training.step import TrainStep, prepare_experiment

ARCHITECTURES = (
    "megalodon",
    "llama2",
    "mega",
    "mamba",
    "mamba2",
    "rwkv4",
    "rwkv7",
    "gla",
    "retnet",
    "gated_delta_net",
    "transformer_xl",
    "hybrid",
)
SETTINGS = tuple(product(("float32", "bfloat16"), (False, True)))
# Small batches: without bfloat16 instructions, products in bfloat16 take fifty times as long.
SIZE = ("train.batch_size=1", "train.accumulate=1", "train.context=128", "train.compile=off", "train.device=cpu")


@dataclass
class Case:
    """One architecture in one setting: the seconds of an update, predicted and measured."""

    name: str
    precision: str
    recomputes: bool
    predicted: float
    measured: float = float("inf")


def measure(rounds: int) -> list[Case]:
    """Return the cases, each one's time the best of some interleaved rounds, of one thread.

    It is the processor's time, which is the clock's on an idle machine, and is not longer where others wait for it too.
    """
    torch.set_num_threads(1)
    cases, steps = [], []
    for case, experiment in _cases():
        cases.append(case)
        steps.append(TrainStep(prepare_experiment(experiment)))
        steps[-1]()
    for _ in range(rounds):
        for case, step in zip(cases, steps, strict=True):
            begin = time.process_time()
            step()
            case.measured = min(case.measured, time.process_time() - begin)
    return cases


def _cases() -> Iterator[tuple[Case, Experiment]]:
    for (precision, recomputes), name in product(SETTINGS, ARCHITECTURES):
        setting = (f"train.precision={precision}", f"train.checkpoint_activations={str(recomputes).lower()}")
        experiment = load(f"{name}_tiny", [*SIZE, *setting])
        yield Case(name, precision, recomputes, plan(experiment).seconds_per_update), experiment


def spearman(one: Sequence[float], two: Sequence[float]) -> float:
    """Return the correlation of the ranks of two series without ties."""
    ranks = [torch.tensor(series).argsort().argsort().double() for series in (one, two)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def report_time(rounds: int = 5) -> None:
    """Print the table, and the rank correlations of each setting and of all."""
    cases = measure(rounds)
    table = Table(
        "architecture", box=None, title="ms of an update on one thread, predicted / measured", title_justify="left"
    )
    for precision, recomputes in SETTINGS:
        table.add_column(f"{precision}{', checkpointed' if recomputes else ''}", justify="right")
    for name in ARCHITECTURES:
        own = [case for case in cases if case.name == name]
        table.add_row(name, *(f"{1000 * case.predicted:,.0f} / {1000 * case.measured:,.0f}" for case in own))
    table.add_row("Spearman", *(f"{_correlation(_of(cases, *setting)):.2f}" for setting in SETTINGS))
    console = Console(width=110)
    console.print(table)
    console.print(f"Spearman over all {len(cases)}: {_correlation(cases):.3f} (target 0.9)")


def _of(cases: Sequence[Case], precision: str, recomputes: bool) -> list[Case]:
    return [case for case in cases if (case.precision, case.recomputes) == (precision, recomputes)]


def _correlation(cases: Sequence[Case]) -> float:
    return spearman([case.predicted for case in cases], [case.measured for case in cases])
