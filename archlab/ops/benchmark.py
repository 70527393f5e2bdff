"""Benchmark of the operations: their backends, their PyTorch implementations, and the limit of memory bandwidth."""

from __future__ import annotations

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
from archlab.runtime.private_apis import quote_library_dirs
from archlab.runtime.timing import best_time, time_call

BACKENDS = {"cpu": "C++", "cuda": "Triton"}
COPY_SIZE = 2**26  # float32 elements, 256 MiB, whose copy measures the memory's bandwidth: beyond all caches
ROUNDS, MAX_SECONDS = 5, 0.5  # repetitions of a measurement, and the seconds after which none is added


@dataclass(frozen=True)
class BenchmarkResult:
    """One operation: seconds of its backend, if there is one, of its PyTorch implementation, and the memory's limit."""

    name: str
    backend: str
    seconds: float | None
    eager_s: float
    compiled_s: float
    roofline_s: float

    @property
    def speedup(self) -> float | None:
        """Return the backend's speedup over the PyTorch implementation, the faster of eager and compiled."""
        return min(self.eager_s, self.compiled_s) / self.seconds if self.seconds else None


def count_benchmarks(operation: str | None = None) -> int:
    """Return the number of results that `benchmark` yields; raise ArchlabError for an unknown operation."""
    return 2 * len(_names(operation))


def _names(operation: str | None) -> list[str]:
    if operation is not None and operation not in CASES:
        raise ArchlabError(f"no operation {operation!r}{did_you_mean(operation, CASES)}")
    return list(CASES) if operation is None else [operation]


def benchmark(operation: str | None = None) -> Iterator[BenchmarkResult]:
    """Measure one operation, or all, on the GPU if there is one; raise ArchlabError for an unknown operation."""
    names = _names(operation)
    select_matmul_precision()
    register_native_backends()
    register_triton_backends()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bandwidth = _copy_bandwidth(device)
    for name in names:
        call, inputs = CASES[name](device)
        for trained in (False, True):
            yield _measure(name, call, inputs, trained, bandwidth)


def _measure(
    name: str, call: Operation, inputs: tuple[Tensor, ...], trained: bool, bandwidth: float
) -> BenchmarkResult:
    device = inputs[0].device
    step = _step(call, inputs, trained)
    has_backend = uses_backend(name, inputs[0], step)
    seconds = _seconds(step, device) if has_backend else None
    quote_library_dirs()
    with reference_only():
        eager = _seconds(step, device)
        compiled = _seconds(_step(torch.compile(call, fullgraph=True), inputs, trained), device)
    with torch.no_grad():
        bytes_moved = sum(x.nbytes for x in inputs) + call(*inputs).nbytes
    title = f"{name}, {'forward and back' if trained else 'forward'}"
    # The backward pass moves as much again: it reads the output's gradient and writes those of the inputs.
    roofline = bytes_moved * (2 if trained else 1) / bandwidth
    backend = BACKENDS[device.type] if has_backend else ""
    return BenchmarkResult(title, backend, seconds, eager, compiled, roofline)


def _step(call: Operation, inputs: tuple[Tensor, ...], trained: bool) -> Callable[[], None]:
    """Return a call of the operation on its inputs, and of its backward pass if it is trained."""
    inputs = tuple(x.detach().requires_grad_(trained and x.is_floating_point()) for x in inputs)
    with torch.set_grad_enabled(trained):  # as in the step: another grad mode would compile the operation twice
        dy = torch.ones_like(call(*inputs))

    def step() -> None:
        with torch.set_grad_enabled(trained):
            y = call(*inputs)
        if trained:
            torch.autograd.grad(y, [x for x in inputs if x.requires_grad], dy, allow_unused=True)

    return step


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """Return the shortest time of some calls, after one to warm up."""
    step()
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < MAX_SECONDS:
        times.append(time_call(step, device))
    return min(times)


def _copy_bandwidth(device: torch.device) -> float:
    """Return the bytes per second that are read and written by the copy of a large tensor."""
    x = torch.ones(COPY_SIZE, device=device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / best_time(lambda: y.copy_(x), device, ROUNDS)
