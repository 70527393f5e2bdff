"""Products of rows in groups with a matrix for each group, such as the experts of a mixture.

Letters in suffixes: N rows, E groups, D inputs, P outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from archlab.ops.dispatch import find_backend, register_backend, replace_backends
from archlab.ops.dtypes import product_dtype
from archlab.ops.op_costs import Sizes

_NAME = "grouped_linear"


def grouped_linear(x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> Tensor:
    """Return rows times the transposed matrix of their group [N, P], where the first counts[0] rows are of group 0.

    Products are in autocast's dtype where it is on.
    """
    dtype = product_dtype(x_ND)
    # An exported program has no control flow that depends on numbers of rows, and a tensor without values no numbers.
    is_static = torch.compiler.is_exporting() or x_ND.is_meta
    run = _all_products if is_static else find_backend(_NAME, x_ND) or grouped_linear_reference
    y_NP: Tensor = run(x_ND.to(dtype), weight_EPD.to(dtype), counts_E)
    return y_NP


def grouped_linear_reference(x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> Tensor:
    """Compute the same group by group: the definition, and the form that an exported model runs."""
    return torch.cat([F.linear(x, weight) for x, weight in zip(x_ND.split(counts_E.tolist()), weight_EPD, strict=True)])


def _all_products(x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> Tensor:
    """Compute the same from the products of every row with every matrix, whose shapes say nothing of the groups."""
    row_N = torch.arange(x_ND.shape[0], device=x_ND.device)
    return (x_ND @ weight_EPD.mT)[_group_of(row_N, counts_E), row_N]


def _own_products(x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> Tensor:
    """Compute the same from copies of each row's matrix."""
    row_N = torch.arange(x_ND.shape[0], device=x_ND.device)
    return (weight_EPD[_group_of(row_N, counts_E)] @ x_ND[..., None])[..., 0]


def _group_of(row_N: Tensor, counts_E: Tensor) -> Tensor:
    return (row_N[:, None] >= counts_E.cumsum(0)).sum(-1)


def _fewest_products(x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> Tensor:
    """Compute the same, reading each matrix at most once."""
    return (_own_products if len(x_ND) <= len(weight_EPD) else _all_products)(x_ND, weight_EPD, counts_E)


def without_opaque_products() -> AbstractContextManager[None]:
    """Compute by torch's own operations in a block, for a trace of a decoding step that runs without Python."""
    return replace_backends(dict.fromkeys(grouped_backends(), _fewest_products))


# Opaque to torch.compile: the numbers of rows differ in every batch, and each would be a graph of its own.
@torch.library.custom_op("archlab::grouped_linear", mutates_args=())
def _forward(x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> Tensor:
    y_NP = x_ND.new_empty(len(x_ND), weight_EPD.shape[1])
    for weight, x, y in _groups(weight_EPD, counts_E, x_ND, y_NP):
        torch.mm(x, weight.mT, out=y)
    return y_NP


@_forward.register_fake
def _(x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> Tensor:
    return x_ND.new_empty(x_ND.shape[0], weight_EPD.shape[1])


@torch.library.custom_op("archlab::grouped_linear_back", mutates_args=())
def _backward(dy_NP: Tensor, x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> tuple[Tensor, Tensor]:
    dx_ND, dweight_EPD = torch.empty_like(x_ND), torch.empty_like(weight_EPD)
    groups = _groups(weight_EPD, counts_E, dy_NP, x_ND, dx_ND)
    for dweight, (weight, dy, x, dx) in zip(dweight_EPD, groups, strict=True):
        torch.mm(dy, weight, out=dx)
        torch.mm(dy.mT, x, out=dweight)  # zero for a group without rows
    return dx_ND, dweight_EPD


@_backward.register_fake
def _(dy_NP: Tensor, x_ND: Tensor, weight_EPD: Tensor, counts_E: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_ND), torch.empty_like(weight_EPD)


def _groups(weight_EPD: Tensor, counts_E: Tensor, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the matrix of each group with its part of every tensor of rows."""
    sizes = counts_E.tolist()
    return zip(weight_EPD, *(tensor.split(sizes) for tensor in rows), strict=True)


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy_NP: Tensor) -> tuple[Tensor, Tensor, None]:
    dx_ND, dweight_EPD = _backward(dy_NP, *ctx.saved_tensors)
    return dx_ND, dweight_EPD, None


_forward.register_autograd(_differentiate, setup_context=_keep_inputs)


def _flops(x_ND: Sizes, weight_EPD: Sizes, *_: Any, **__: Any) -> int:
    return 2 * prod(x_ND) * weight_EPD[1]


def _backward_flops(dy_NP: Sizes, x_ND: Sizes, weight_EPD: Sizes, *_: Any, **__: Any) -> int:
    return 4 * prod(x_ND) * weight_EPD[1]


register_flop_formula(torch.ops.archlab.grouped_linear)(_flops)
register_flop_formula(torch.ops.archlab.grouped_linear_back)(_backward_flops)


def grouped_backends() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return the opaque operation as the backend on every device that models are run on."""
    return {(_NAME, device_type): _forward for device_type in ("cpu", "cuda")}


def register_grouped_backends() -> None:
    """Register the opaque operation."""
    for (name, device_type), backend in grouped_backends().items():
        register_backend(name, device_type, backend)
