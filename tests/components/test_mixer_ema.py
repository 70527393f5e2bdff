import math

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients
from torch.nn import functional as F

from archlab.config.registry import find


def build(dim=3, **knobs):
    torch.manual_seed(0)
    layer = find("mixer", "ema").cls(dim, **knobs).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def inputs(num_tokens, dim=3):
    torch.manual_seed(1)
    return torch.randn(2, num_tokens, dim, dtype=torch.float64, requires_grad=True)


def equations(layer, x):
    """Hold the input for a step, run x' = Ax + u, read 2 Re(C x) + D u, activate, and gate half by the other half."""
    ema, outputs = layer.ema, []
    a = torch.complex(-ema.log_rate.exp(), ema.frequency)
    grown = torch.exp(ema.log_step.exp()[:, None] * a)
    h = torch.zeros(2, *a.shape, dtype=torch.complex128)
    for t in range(x.shape[1]):
        h = grown * h + (grown - 1) / a * x[:, t, :, None]
        y = 2 * (torch.view_as_complex(ema.read) * h).sum(-1).real + ema.skip * x[:, t]
        active = y * (1 + torch.erf(y / math.sqrt(2))) / 2
        values, gates = (active @ layer.out.weight.T + layer.out.bias).chunk(2, -1)
        outputs.append(values / (1 + torch.exp(-gates)))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("num_tokens", [1, 70])
def test_agrees_with_its_equations(num_tokens):
    layer, x = build(), inputs(num_tokens)
    assert_same_gradients(layer(x)[0], equations(layer, x), [x, *layer.parameters()])


@pytest.mark.parametrize("ema", ["s4d", "cema", "short_conv", "none"])
def test_streams_with_any_recurrence(ema):
    layer, x = build(ema=find("ema", ema).cls), inputs(70)
    assert_one_stream(layer, x.detach())
    filtered = layer.ema(x) if ema == "none" else layer.ema(x)[0]
    torch.testing.assert_close(layer(x)[0], F.glu(layer.out(F.gelu(filtered)), -1))


def test_dropout_falls_in_training_alone():
    layer, x = build(dropout=0.5), inputs(20)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
