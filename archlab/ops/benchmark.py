"""How fast the operations of layers are here: their fast bodies, their plain forms, and the memory's limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from archlab.errors import ArchlabError, suggest
from archlab.ops.benchmark_cases import CASES, Operation
from archlab.ops.dispatch import is_taken, plain
from archlab.ops.native import install_native
from archlab.ops.triton import install_triton
from archlab.runtime.matmul_precision import settle_matrix_products

BODIES = {"cpu": "C++", "cuda": "Triton"}
COPIED = 2**26  # numbers that are copied to learn what the memory can do
ROUNDS, ENOUGH = 5, 0.5  # times of each, and the seconds after which there are no more


@dataclass(frozen=True)
class Measured:
    """One operation: seconds of its fast body, if there is one here, of its plain form, and what the memory allows."""

    name: str
    body: str
    seconds: float | None
    eager_s: float
    compiled_s: float
    least_s: float

    @property
    def gain(self) -> float | None:
        """Return how many times as fast as the better plain form the fast body is."""
        return min(self.eager_s, self.compiled_s) / self.seconds if self.seconds else None


def bench(operation: str | None = None) -> Iterator[Measured]:
    """Measure one operation, or all, on the GPU if there is one; raise ArchlabError for one that there is not."""
    if operation is not None and operation not in CASES:
        raise ArchlabError(f"no operation {operation!r}{suggest(operation, CASES)}")
    settle_matrix_products()
    install_native()
    install_triton()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate = _copies_a_second(device)
    for name in CASES if operation is None else (operation,):
        call, inputs = CASES[name](device)
        for trained in (False, True):
            yield _measured(name, call, inputs, trained, rate)


def _measured(name: str, call: Operation, inputs: tuple[Tensor, ...], trained: bool, rate: float) -> Measured:
    device = inputs[0].device
    step = _step(call, inputs, trained)
    has_body = is_taken(name, inputs[0], step)
    seconds = _seconds(step, device) if has_body else None
    with plain():
        eager = _seconds(step, device)
        compiled = _seconds(_step(torch.compile(call, fullgraph=True), inputs, trained), device)
    with torch.no_grad():
        moved = sum(x.nbytes for x in inputs) + call(*inputs).nbytes
    title = f"{name}, {'forward and back' if trained else 'forward'}"
    least = moved * (2 if trained else 1) / rate
    body = BODIES[device.type] if has_body else ""
    return Measured(title, body, seconds, eager, compiled, least)


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
    while len(times) < ROUNDS and sum(times) < ENOUGH:
        times.append(_timed(step, device))
    return min(times)


def _timed(step: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _copies_a_second(device: torch.device) -> float:
    """Return the bytes that are read and written a second where a large tensor is copied."""
    x = torch.ones(COPIED, device=device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / min(_timed(lambda: y.copy_(x), device) for _ in range(ROUNDS))
