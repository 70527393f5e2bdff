"""Where the time of an update goes: matrix products, attention, recurrences, compiled loops, all else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from archlab.config.experiment import Experiment
from archlab.runtime.timing import time_call
from archlab.training.step import TrainStep, resolve_auto

# The first updates compile. Then memory is new for a while, all the more so as the profiler asks for its own among
# it: a few profiles are thrown away, so that the last is that of a run which has gone on for long.
COMPILE_STEPS, WARMUP_PROFILES, MEASURED_STEPS = 2, 3, 3
MIN_SHARE = 0.01  # of an update: what takes less is told as one
OTHER = "all else"
# What an operation's name, or that of a kernel on a GPU, has in it.
KINDS = {
    "compiled loops": r"CompiledFxGraph|cpp_fused|triton_",
    "matrix products": r"aten::(mm|bmm|addmm|baddbmm|addmv|mv)$|mkldnn::|gemm|cutlass|nvjet",
}
# Autograd has a name of its own for an operation of archlab's that may be differentiated, and what it does in it.
_AUTOGRAD = "GeneratedBackwardFor_archlab_"
_NAMED = re.compile(rf"(?:aten::|archlab::_?)(\w+)$|{_AUTOGRAD}_?(\w+)_default$")


@dataclass(frozen=True)
class Part:
    """What one kind of work takes of an update: seconds, calls, and the FLOPs that the profiler counts."""

    name: str
    seconds: float = 0
    calls: float = 0
    flops: float = 0

    def __add__(self, other: Part) -> Part:
        """Return both as one, by the name of this one."""
        return Part(self.name, self.seconds + other.seconds, self.calls + other.calls, self.flops + other.flops)


@dataclass(frozen=True)
class Profile:
    """An update: its tokens, its seconds, and its parts, the longest first, as the profiler has them."""

    tokens: int
    seconds: float
    parts: tuple[Part, ...]


def profile(experiment: Experiment) -> Profile:
    """Make some updates of an experiment as `train` does, keeping nothing, and measure the last of them.

    Raises ArchlabError for what training would raise it for.
    """
    update = TrainStep(resolve_auto(experiment))
    for _ in range(COMPILE_STEPS):
        update()
    for _ in range(WARMUP_PROFILES):
        _events(update)
    seconds = _time_steps(update)
    return Profile(update.tokens, seconds, _aggregate(_events(update), update.device, seconds))


def kind_of(name: str) -> str | None:
    """Return the kind of work an operation does: one of KINDS, its own name, or None for what is around operations."""
    known = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), None)
    named = _NAMED.match(name)
    return known or (named and (named[1] or named[2]))


def _time_steps(update: TrainStep) -> float:
    """Return the seconds of one update, the mean of those that are measured."""

    def run() -> None:
        for _ in range(MEASURED_STEPS):
            update()

    return time_call(run, update.device) / MEASURED_STEPS


def _events(update: TrainStep) -> Iterable[Any]:
    """Return what the profiler saw of the updates that are measured."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler otherwise says that it begins and that it ends
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (update.device.type == "cuda")
    with torch.profiler.profile(activities=activities, with_flops=True) as profiler:
        _time_steps(update)
    return profiler.key_averages()


def _aggregate(events: Iterable[Any], device: torch.device, seconds: float) -> tuple[Part, ...]:
    """Sum by kind; the rest of an update is Python, what is too small to tell, and waiting."""
    on_gpu = device.type == "cuda"
    parts: dict[str, Part] = {}
    for event in events:
        kind = event.key if on_gpu and kind_of(event.key) is None else kind_of(event.key)
        if kind is None or on_gpu != (event.device_type == DeviceType.CUDA):
            continue
        taken = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        calls = 0 if event.key.startswith(_AUTOGRAD) else event.count  # counted by its own name
        one = Part(kind, taken / MEASURED_STEPS, calls / MEASURED_STEPS, event.flops / MEASURED_STEPS)
        parts[kind] = parts.get(kind, Part(kind)) + one
    told = sorted(
        (part for part in parts.values() if part.seconds >= MIN_SHARE * seconds), key=lambda part: -part.seconds
    )
    return (*told, Part(OTHER, max(seconds - sum(part.seconds for part in told), 0.0)))
