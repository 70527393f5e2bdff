"""How fast the operations of layers are here: their fast bodies, their plain forms, and the memory's limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from archlab.errors import ArchlabError, did_you_mean
from archlab.ops.benchmark_cases import CASES, Operation
from archlab.ops.dispatch import reference_only, uses_backend
from archlab.ops.native import register_native_backends
from archlab.ops.triton import register_triton_backends
from archlab.runtime.matmul_precision import select_matmul_precision

BACKENDS = {"cpu": "C++", "cuda": "Triton"}
COPY_SIZE = 2**26  # numbers that are copied to learn what the memory can do
ROUNDS, MAX_SECONDS = 5, 0.5  # times of each, and the seconds after which there are no more


@dataclass(frozen=True)
class BenchmarkResult:
    """One operation: seconds of its fast body, if there is one here, of its plain form, and what the memory allows."""

    name: str
    backend: str
    seconds: float | None
    eager_s: float
    compiled_s: float
    roofline_s: float

    @property
    def speedup(self) -> float | None:
        """Return how many times as fast as the better plain form the fast body is."""
        return min(self.eager_s, self.compiled_s) / self.seconds if self.seconds else None


def benchmark(operation: str | None = None) -> Iterator[BenchmarkResult]:
    """Measure one operation, or all, on the GPU if there is one; raise ArchlabError for one that there is not."""
    if operation is not None and operation not in CASES:
        raise ArchlabError(f"no operation {operation!r}{did_you_mean(operation, CASES)}")
    select_matmul_precision()
    register_native_backends()
    register_triton_backends()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate = _copy_bandwidth(device)
    for name in CASES if operation is None else (operation,):
        call, inputs = CASES[name](device)
        for trained in (False, True):
            yield _measure(name, call, inputs, trained, rate)


def _measure(name: str, call: Operation, inputs: tuple[Tensor, ...], trained: bool, rate: float) -> BenchmarkResult:
    device = inputs[0].device
    step = _step(call, inputs, trained)
    has_backend = uses_backend(name, inputs[0], step)
    seconds = _seconds(step, device) if has_backend else None
    with reference_only():
        eager = _seconds(step, device)
        compiled = _seconds(_step(torch.compile(call, fullgraph=True), inputs, trained), device)
    with torch.no_grad():
        moved = sum(x.nbytes for x in inputs) + call(*inputs).nbytes
    title = f"{name}, {'forward and back' if trained else 'forward'}"
    least = moved * (2 if trained else 1) / rate
    backend = BACKENDS[device.type] if has_backend else ""
    return BenchmarkResult(title, backend, seconds, eager, compiled, least)


def _step(call: Operation, inputs: tuple[Tensor, ...], trained: bool) -> Callable[[], None]:
    """Return the operation on its inputs, with its gradients if it is trained."""
    inputs = tuple(x.detach().requires_grad_(trained and x.is_floating_point()) for x in inputs)
    with torch.set_grad_enabled(trained):  # as below: what is compiled is then compiled once
        weight = torch.ones_like(call(*inputs))

    def step() -> None:
        with torch.set_grad_enabled(trained):
            y = call(*inputs)
        if trained:
            torch.autograd.grad(y, [x for x in inputs if x.requires_grad], weight, allow_unused=True)

    return step


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """Return the shortest of some times, after one to warm up."""
    step()
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < MAX_SECONDS:
        times.append(_time_once(step, device))
    return min(times)


def _time_once(step: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _copy_bandwidth(device: torch.device) -> float:
    """Return the bytes that are read and written a second where a large tensor is copied."""
    x = torch.ones(COPY_SIZE, device=device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / min(_time_once(lambda: y.copy_(x), device) for _ in range(ROUNDS))
