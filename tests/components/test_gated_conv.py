"""The gated short convolution of LFM2, as a loop over time."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.config.registry import find


@pytest.mark.parametrize("bias", [False, True])
def test_agrees_with_a_loop_and_streams(bias: bool) -> None:
    torch.manual_seed(0)
    layer = find("mixer", "gated_conv").cls(5, bias=bias).double()
    x = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    gated, taps = layer.gate_in(x) * layer.value(x), layer.ema.weight
    steps = [sum(taps[3 - j] * gated[:, t - j] for j in range(min(4, t + 1))) for t in range(7)]
    expected = layer.out(layer.gate_out(x) * torch.stack(steps, 1))
    assert_same_gradients(layer(x)[0], expected, [x, *layer.parameters()])
    assert_one_stream(layer, x.detach())
