"""The opaque operation and the form of exported programs agree with the loop over groups, in values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from archlab.modeling.build import configure_backends
from archlab.ops import grouped_linear as module
from archlab.ops.grouped_linear import grouped_linear, grouped_linear_reference

# Groups without rows at both ends and between, one of a single row, and no rows at all.
COUNTS = ([3, 0, 5, 1], [0, 9, 0], [0, 0, 1], [2, 3, 0, 0, 7], [0, 0])
every_count = pytest.mark.parametrize("counts", COUNTS, ids=str)


def inputs(counts: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(counts))
    x, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((sum(counts), 6), (len(counts), 7, 6))
    )
    return x, weight, torch.tensor(counts)


def gradients(run: Callable[..., Tensor], x: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, ...]:
    y = run(x, weight, counts)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return (y, *torch.autograd.grad(y, (x, weight), slope))


@every_count
@pytest.mark.parametrize(
    "run", [module._forward, module._all_products, module._own_products], ids=["opaque", "all", "own"]
)
def test_agrees_with_the_loop_over_groups(run: Callable[..., Tensor], counts: list[int]) -> None:
    expected = gradients(grouped_linear_reference, *inputs(counts))
    torch.testing.assert_close(gradients(run, *inputs(counts)), expected, rtol=1e-13, atol=1e-13)


@every_count
def test_every_row_has_the_product_with_its_own_matrix(counts: list[int]) -> None:
    x, weight, sizes = inputs(counts)
    group = [index for index, size in enumerate(counts) for _ in range(size)]
    expected = torch.stack([weight[e] @ row for e, row in zip(group, x, strict=True)]) if group else x.new_empty(0, 7)
    torch.testing.assert_close(grouped_linear(x, weight, sizes), expected)


@pytest.mark.slow
@pytest.mark.parametrize("counts", COUNTS[:2], ids=str)
def test_is_an_operation_in_every_respect(counts: list[int]) -> None:
    torch.library.opcheck(module._forward, inputs(counts))
    x, weight, sizes = inputs(counts)
    slope = torch.randn(len(x), 7, dtype=torch.float64)
    torch.library.opcheck(module._backward, (slope, x.detach(), weight.detach(), sizes))


def test_rows_that_arrive_transposed() -> None:
    x, weight, counts = inputs([3, 0, 5, 1])
    other = x.detach().mT.contiguous().mT.requires_grad_()
    expected = gradients(grouped_linear_reference, x, weight, counts)
    torch.testing.assert_close(gradients(module._forward, other, weight, counts), expected, rtol=1e-13, atol=1e-13)


def test_computes_in_the_dtype_of_autocast() -> None:
    configure_backends()
    x, weight, counts = inputs([3, 0, 5, 1], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, *found = gradients(grouped_linear, x, weight, counts)
    assert y.dtype == torch.bfloat16
    expected, *wanted = gradients(grouped_linear_reference, x, weight, counts)
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.05)
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.05)


@pytest.mark.slow
def test_one_graph_serves_all_numbers_of_rows() -> None:
    configure_backends()
    torch.compiler.reset()
    compiled = torch.compile(grouped_linear, fullgraph=True, backend="aot_eager")
    gradients(compiled, *inputs([3, 0, 5, 1]))
    with torch.compiler.set_stance("fail_on_recompile"):
        for counts in ([0, 0, 9, 0], [1, 2, 3, 3]):
            expected = gradients(grouped_linear_reference, *inputs(counts))
            torch.testing.assert_close(gradients(compiled, *inputs(counts)), expected, rtol=1e-13, atol=1e-13)
