import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.config.registry import find


@pytest.mark.parametrize("kernel_size", [1, 2, 4, 9])
def test_agrees_with_a_loop_and_streams(kernel_size):
    torch.manual_seed(0)
    layer = find("ema", "short_conv").cls(3, kernel_size=kernel_size).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    steps = [
        sum(layer.weight[kernel_size - 1 - j] * x[:, t - j] for j in range(min(kernel_size, t + 1))) for t in range(7)
    ]
    assert_same_gradients(layer(x)[0], torch.stack(steps, 1), [x, layer.weight])
    assert_one_stream(layer, x.detach())


def test_keeps_the_types():
    layer = find("ema", "short_conv").cls(3)
    y, state = layer(torch.ones(1, 5, 3, dtype=torch.bfloat16))
    assert (y.dtype, state["past"].dtype) == (torch.bfloat16, torch.float32)


def test_none_is_the_identity():
    x = torch.randn(1, 5, 3)
    assert find("ema", "none").cls(3)(x) is x
