"""Profile of an optimizer step: time by matrix products, attention, recurrences, compiled loops, and all else."""

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
from archlab.runtime.determinism import deterministic_algorithms
from archlab.runtime.progress import report_progress
from archlab.runtime.timing import time_call
from archlab.training.step import TrainStep, prepare_experiment

# The first steps compile. After them the allocator still maps new pages, and the profiler's own buffers add to these:
# a few profiles are discarded, so that the last shows the steady state of a long run.
COMPILE_STEPS, WARMUP_PROFILES, MEASURED_STEPS = 2, 3, 3
_ALL_STEPS = COMPILE_STEPS + (WARMUP_PROFILES + 2) * MEASURED_STEPS
MIN_SHARE = 0.01  # of a step; parts below it are added to OTHER
OTHER = "all else"
# Patterns of operation names, and of kernel names on a GPU, as torch 2.13 and its libraries call them.
KINDS = {
    "compiled loops": r"CompiledFxGraph|cpp_fused|triton_",
    "matrix products": r"aten::(mm|bmm|addmm|baddbmm|addmv|mv)$|mkldnn::|gemm|cutlass|nvjet",
}
# torch.library wraps a differentiable custom operation in an autograd node, which has an event with this prefix and a
# self time of its own.
_AUTOGRAD = "GeneratedBackwardFor_archlab_"
_NAMED = re.compile(rf"(?:aten::|archlab::_?)(\w+)$|{_AUTOGRAD}_?(\w+)_default$")


@dataclass(frozen=True)
class Part:
    """One kind of work in an optimizer step: seconds, calls, and the FLOPs that torch.profiler counts."""

    name: str
    seconds: float = 0
    calls: float = 0
    flops: float = 0

    def __add__(self, other: Part) -> Part:
        """Return the sum under the name of the left operand."""
        return Part(self.name, self.seconds + other.seconds, self.calls + other.calls, self.flops + other.flops)


@dataclass(frozen=True)
class Profile:
    """Profile of an optimizer step: its tokens, its seconds, and its parts from the longest to the shortest."""

    tokens: int
    seconds: float
    parts: tuple[Part, ...]


def profile(experiment: Experiment) -> Profile:
    """Profile the optimizer steps of an experiment without saving anything; raise ArchlabError as `train` does."""
    step = TrainStep(prepare_experiment(experiment))
    with deterministic_algorithms():  # as `train` does
        for done in range(COMPILE_STEPS):
            _report("compiling", done)
            step()
        for done in range(WARMUP_PROFILES):
            _report("warming up", COMPILE_STEPS + done * MEASURED_STEPS)
            _profile_steps(step)
        _report("measuring", _ALL_STEPS - 2 * MEASURED_STEPS)
        seconds = _time_steps(step)
        _report("measuring", _ALL_STEPS - MEASURED_STEPS)
        parts = _aggregate(_profile_steps(step), step.device, seconds)
        _report("measuring", _ALL_STEPS)
        return Profile(step.tokens, seconds, parts)


def _report(stage: str, done: int) -> None:
    report_progress(f"profiling, {stage}", done, _ALL_STEPS)


def kind_of(name: str) -> str | None:
    """Return the kind of an operation: one of KINDS, its own name, or None for an event that is not an operation."""
    known = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), None)
    named = _NAMED.match(name)
    return known or (named and (named[1] or named[2]))


def _time_steps(step: TrainStep) -> float:
    """Return the mean seconds per step over MEASURED_STEPS."""

    def run() -> None:
        for _ in range(MEASURED_STEPS):
            step()

    return time_call(run, step.device) / MEASURED_STEPS


def _profile_steps(step: TrainStep) -> Iterable[Any]:
    """Return the profiler's events of MEASURED_STEPS steps."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or Kineto logs each start and stop to stderr
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (step.device.type == "cuda")
    with torch.profiler.profile(activities=activities, with_flops=True) as profiler:
        _time_steps(step)
    return profiler.key_averages()


def _aggregate(events: Iterable[Any], device: torch.device, seconds: float) -> tuple[Part, ...]:
    """Sum events by kind; the rest of a step is Python, parts below MIN_SHARE, and waiting."""
    on_gpu = device.type == "cuda"
    parts: dict[str, Part] = {}
    for event in events:
        kind = event.key if on_gpu and kind_of(event.key) is None else kind_of(event.key)
        if kind is None or on_gpu != (event.device_type == DeviceType.CUDA):
            continue
        self_time = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        # The operation inside an autograd node has an event of its own, which is the one that counts as a call.
        calls = 0 if event.key.startswith(_AUTOGRAD) else event.count
        one = Part(kind, self_time / MEASURED_STEPS, calls / MEASURED_STEPS, event.flops / MEASURED_STEPS)
        parts[kind] = parts.get(kind, Part(kind)) + one
    shown = sorted(
        (part for part in parts.values() if part.seconds >= MIN_SHARE * seconds), key=lambda part: -part.seconds
    )
    return (*shown, Part(OTHER, max(seconds - sum(part.seconds for part in shown), 0.0)))
