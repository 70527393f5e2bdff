"""Costs of operations that torch's counters do not know: FLOPs, and the contents of opaque operations.

`torch.utils.flop_counter.register_flop_formula` registers FLOPs, beside each operation of archlab's and here for
torch's. A multiplication and an addition are two, and all T x T pairs of causal attention count, the usual convention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, TypeAlias, TypeVar

import torch
from torch.utils.flop_counter import register_flop_formula

from archlab.runtime.private_apis import cpu_flash_attention, flop_formula

Sizes = tuple[int, ...]
Item = TypeVar("Item")
Loop: TypeAlias = "Callable[[Sequence[Any]], Iterable[Any]]"

# Python functions of opaque operations, which a trace runs instead to count their operations and memory.
_BODIES: dict[str, Callable[..., Any]] = {}
# FLOPs of the backward pass that an operation of the forward pass computes ahead.
_BACKWARD_AHEAD: dict[str, Callable[..., int]] = {}


# How a trace runs the loops of `iter_alike`; None runs them as they are.
_loop: Loop | None = None


def iter_alike(items: Sequence[Item]) -> Iterable[Item]:
    """Iterate over chunks of one size, the last one perhaps smaller: a trace counts most of them like the second."""
    return items if _loop is None else _loop(items)


@contextmanager
def trace_loops(loop: Loop) -> Iterator[None]:
    """Run the loops of `iter_alike` within a block by `loop`, which yields some of their items."""
    global _loop
    before, _loop = _loop, loop
    try:
        yield
    finally:
        _loop = before


def register_body(operation: str, body: Callable[..., Any]) -> None:
    """Register the Python function of an opaque operation, such as `archlab.linear_cross_entropy`."""
    _BODIES[operation] = body


def register_backward_ahead(operation: str, flops: Callable[..., int]) -> None:
    """Register the FLOPs of the backward pass that an operation of the forward pass computes, by its inputs."""
    _BACKWARD_AHEAD[operation] = flops


def find_body(operation: str) -> Callable[..., Any] | None:
    """Return the Python function of an opaque operation, or None."""
    return _BODIES.get(operation)


def backward_flops_ahead(operation: str, inputs: tuple[Any, ...]) -> int:
    """Return the FLOPs of the backward pass that an operation of the forward pass computes."""
    return _BACKWARD_AHEAD[operation](*inputs) if operation in _BACKWARD_AHEAD else 0


def attention_flops(q_BHTK: Sizes, k_BHSK: Sizes, v_BHSV: Sizes, *_: Any, **__: Any) -> int:
    """Return the FLOPs of two products: scores, and weighted values."""
    *batch, T, K = q_BHTK
    return 2 * prod(batch) * T * k_BHSK[-2] * (K + v_BHSV[-1])


def attention_backward_flops(q_BHTK: Sizes, k_BHSK: Sizes, v_BHSV: Sizes) -> int:
    """Return the FLOPs of five products: the scores again, and the gradients of weights, values, keys and queries."""
    *batch, T, K = q_BHTK
    return 2 * prod(batch) * T * k_BHSK[-2] * (3 * K + 2 * v_BHSV[-1])


def _flash_backward(dy: Sizes, q: Sizes, k: Sizes, v: Sizes, *_: Any, **__: Any) -> int:
    return attention_backward_flops(q, k, v)


def _solve_triangular(a_NN: Sizes, b_NM: Sizes, *_: Any, **__: Any) -> int:
    """Return the FLOPs of substitution: a multiplication and an addition for each entry below the diagonal."""
    return prod(b_NM[:-2]) * a_NN[-1] ** 2 * b_NM[-1]


def _addmm(sum_NM: Sizes, a_NK: Sizes, b_KM: Sizes, *_: Any, **__: Any) -> int:
    return 2 * prod(a_NK) * b_KM[-1]


# Of torch's own operations the registry of torch 2.13 lacks these.
for _operation, _formula in (
    (torch.ops.aten.addmm_, _addmm),
    (torch.ops.aten.baddbmm_, _addmm),
    (torch.ops.aten.linalg_solve_triangular, _solve_triangular),
    *zip(cpu_flash_attention(), (attention_flops, _flash_backward), strict=True),
):
    if flop_formula(_operation) is None:
        register_flop_formula(_operation)(_formula)  # type: ignore[arg-type]  # torch types it as a function of nothing
