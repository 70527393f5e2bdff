"""How fast the operations of layers are on this machine: their fast bodies, their plain forms, and the memory's limit.

Letters in suffixes: B batch, T time, D channels, N states a channel, G groups, H heads, K width of a key, V width of a
value or words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

from archlab.errors import ArchlabError, suggest
from archlab.matrix_products import settle_matrix_products
from archlab.ops.bodies import is_taken, plain
from archlab.ops.causal_attention import causal_attention
from archlab.ops.diagonal_scan import Decay, diagonal_scan
from archlab.ops.gated_linear import gated_linear
from archlab.ops.native import install_native
from archlab.ops.selective_scan import selective_scan
from archlab.ops.timestep_norm import timestep_norm
from archlab.ops.token_loss import token_loss
from archlab.ops.triton import install_triton

B, T, D = 1, 4096, 512
BODIES = {"cpu": "C++", "cuda": "Triton"}
COPIED = 2**26  # numbers that are copied to learn what the memory can do
ROUNDS, ENOUGH = 5, 0.5  # times of each, and the seconds after which there are no more

Operation = Callable[..., Tensor]


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


def table(rows: Iterator[Measured]) -> Table:
    """Return what was measured as a table for a terminal."""
    title = f"ms, float32, {B} x {T} tokens of {D} channels; least: memory reads every input, writes the output"
    shown = Table("operation", "fast body", box=None, title=title, title_justify="left")
    for heading in ("its time", "plain, eager", "plain, compiled", "least", "gain"):
        shown.add_column(heading, justify="right")
    for row in rows:
        times = (row.seconds, row.eager_s, row.compiled_s, row.least_s)
        cells = ["" if s is None else f"{1000 * s:.2f}" for s in times]
        shown.add_row(row.name, row.body, *cells, "" if row.gain is None else f"{row.gain:.1f}")
    return shown


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


def _causal_attention(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    H = 4

    def call(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHV))
        return causal_attention(q, k, v, (D // H) ** -0.5)

    return call, tuple(torch.randn(B, T, H, D // H, device=device) for _ in range(3))


def _diagonal_scan(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    def call(u_BTD: Tensor, log_radius_DN: Tensor, angle_DN: Tensor, weight_DNP: Tensor) -> Tensor:
        return diagonal_scan(u_BTD, Decay(log_radius_DN, angle_DN), weight_DNP, None)[0]

    shapes = ((B, T, D), (D, 16), (D, 16), (D, 16, 2))
    u_BTD, radius_DN, angle_DN, weight_DNP = (torch.rand(shape, device=device) for shape in shapes)
    return call, (u_BTD, -radius_DN, angle_DN, weight_DNP)


def _selective_scan(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    def call(x_BTD: Tensor, step_BTD: Tensor, rate_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor) -> Tensor:
        return selective_scan(x_BTD, step_BTD, rate_DN, in_BTN, out_BTN)[0]

    shapes = ((B, T, D), (B, T, D), (D, 16), (B, T, 16), (B, T, 16))
    x_BTD, step_BTD, rate_DN, in_BTN, out_BTN = (torch.rand(shape, device=device) for shape in shapes)
    return call, (x_BTD, step_BTD, -rate_DN, in_BTN, out_BTN)


def _timestep_norm(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    G = 32
    count_B = torch.zeros(B, dtype=torch.int64, device=device)
    mean_BG, var_BG = (torch.full((B, G), float(n), dtype=torch.float64, device=device) for n in (0, 1))

    def call(x_BTD: Tensor, scale_D: Tensor, bias_D: Tensor) -> Tensor:
        return timestep_norm(x_BTD, scale_D, bias_D, count_B, mean_BG, var_BG, 1e-5)[0]

    return call, tuple(torch.rand(shape, device=device) for shape in ((B, T, D), (D,), (D,)))


def _gated_linear(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    H = 4

    def call(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, log_decay_BTHK: Tensor) -> Tensor:
        return gated_linear(q_BTHK, k_BTHK, v_BTHV, log_decay_BTHK)[0]

    q_BTHK, k_BTHK, v_BTHV, decay_BTHK = (torch.rand(B, T, H, D // H, device=device) for _ in range(4))
    return call, (q_BTHK, k_BTHK, v_BTHV, -decay_BTHK)


def _score_gradients(device: torch.device) -> tuple[Operation, tuple[Tensor, ...]]:
    words, num_tokens = 32_000, B * T // 8
    x_ND, weight_VD = torch.randn(num_tokens, D, device=device), torch.randn(words, D, device=device)
    return token_loss, (x_ND, weight_VD, torch.randint(words, (num_tokens,), device=device))


CASES: dict[str, Callable[[torch.device], tuple[Operation, tuple[Tensor, ...]]]] = {
    "causal_attention": _causal_attention,
    "diagonal_scan": _diagonal_scan,
    "selective_scan": _selective_scan,
    "timestep_norm": _timestep_norm,
    "gated_linear": _gated_linear,
    "score_gradients": _score_gradients,
}
