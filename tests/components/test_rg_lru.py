"""The RG-LRU against its equations, token by token; whole models are compared in tests/interop/hugging_face."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients
from torch.nn import functional as F

from archlab.config.registry import find

DIM, WIDTH, HEADS = 7, 15, 3


def build(dtype=torch.float64):
    torch.manual_seed(0)
    short = find("ema", "short_conv").cls
    layer = find("mixer", "rg_lru").cls(DIM, width=WIDTH, num_heads=HEADS, ema=lambda width: short(width, bias=True))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer.to(dtype)


def inputs(num_tokens):
    torch.manual_seed(1)
    return torch.randn(2, num_tokens, DIM, dtype=torch.float64, requires_grad=True)


def gate(part, u_D):
    heads = [u_h @ W + b for u_h, W, b in zip(u_D.chunk(HEADS, -1), part.weight, part.bias, strict=True)]
    return torch.sigmoid(torch.cat(heads, -1))


def griffin(layer, x):
    value, outputs, h = F.linear(x, layer.value.weight, layer.value.bias), [], torch.zeros(2, WIDTH, dtype=x.dtype)
    for t in range(x.shape[1]):
        taps = layer.ema.weight
        u = layer.ema.bias + sum(taps[-1 - j] * value[:, t - j] for j in range(min(len(taps), t + 1)))
        a = torch.sigmoid(-layer.rate) ** (8 * gate(layer.decay_gate, u))
        h = a * h + (1.0 if t == 0 else (1 - a**2).sqrt()) * gate(layer.input_gate, u) * u
        outputs.append(h)
    branch = F.gelu(F.linear(x, layer.gate.weight, layer.gate.bias), approximate="tanh")
    return F.linear(branch * torch.stack(outputs, 1), layer.out.weight, layer.out.bias)


@pytest.mark.parametrize("num_tokens", [1, 2, 70])
def test_agrees_with_its_equations(num_tokens):
    layer, x = build(), inputs(num_tokens)
    assert_same_gradients(layer(x)[0], griffin(layer, x), [x, *layer.parameters()])


def test_streams():
    assert_one_stream(build(), inputs(70).detach())


def test_h_stays_wide_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        y, state = build(torch.float32)(inputs(70).float())
    assert y.dtype == torch.bfloat16
    assert state["h"].dtype == torch.float32


def test_gradients_are_finite_where_a_gate_is_closed():
    layer, x = build(torch.float32), inputs(9).float().detach().requires_grad_()
    torch.nn.init.constant_(layer.decay_gate.bias, -200)  # whose sigmoid is 0 in float32, so that a is 1
    layer(x)[0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in (x, *layer.parameters()))


def test_refuses_widths_that_heads_do_not_share():
    with pytest.raises(ValueError, match="width 16 is not divisible by num_heads 3"):
        find("mixer", "rg_lru").cls(DIM, width=16, num_heads=3)


@pytest.mark.slow
def test_decays_begin_in_a_ring():
    torch.manual_seed(0)
    rates = torch.cat([find("mixer", "rg_lru").cls(100).rate for _ in range(100)])  # one of 10,000 has large matrices
    squared = torch.exp(-2 * F.softplus(rates))
    assert squared.min() >= 0.9**2 - 1e-4
    assert squared.max() <= 0.999**2 + 1e-4
    assert squared.mean().item() == pytest.approx((0.9**2 + 0.999**2) / 2, abs=2e-3)
