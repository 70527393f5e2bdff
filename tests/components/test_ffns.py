import math

import pytest
import torch

from archlab.config.registry import find

PLAIN = {
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: x.clamp_min(0),
    "relu2": lambda x: x.clamp_min(0) ** 2,
}


def build(name, **knobs):
    torch.manual_seed(0)
    return find("ffn", name).cls(6, **knobs).double()


def affine(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu", "relu", "relu2"])
def test_mlp(activation, bias):
    layer, x = build("mlp", hidden_dim=10, activation=activation, bias=bias), torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), affine(layer.down, PLAIN[activation](affine(layer.up, x))))
    assert (layer.up.bias is not None) == bias


@pytest.mark.parametrize(
    ("name", "knobs", "activation"),
    [("swiglu", {}, "silu"), ("geglu", {}, "gelu_tanh"), ("geglu", {"approximate": False}, "gelu")],
)
def test_gated(name, knobs, activation):
    layer, x = build(name, hidden_dim=10, **knobs), 3 * torch.randn(2, 3, 6, dtype=torch.float64)
    hidden = PLAIN[activation](affine(layer.gate, x)) * affine(layer.up, x)
    torch.testing.assert_close(layer(x), affine(layer.down, hidden))


def test_factors_of_the_gate_and_of_the_output():
    layer, x = build("swiglu", bias=True, gate_factor=0.7, output_factor=3.0), torch.randn(2, 6, dtype=torch.float64)
    hidden = PLAIN["silu"](0.7 * affine(layer.gate, x)) * affine(layer.up, x)
    torch.testing.assert_close(layer(x), 3.0 * affine(layer.down, hidden))


@pytest.mark.parametrize(("name", "dim", "width"), [("mlp", 6, 24), ("swiglu", 12, 32), ("geglu", 13, 40)])
def test_widths_unless_said_otherwise(name, dim, width):
    assert find("ffn", name).cls(dim).up.out_features == width


@pytest.mark.parametrize("name", ["mlp", "swiglu", "geglu"])
def test_dropout_only_in_training(name):
    layer, x = build(name, dropout=0.5), torch.randn(2, 6, dtype=torch.float64)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_none_adds_nothing():
    layer, x = build("none"), torch.randn(2, 6, requires_grad=True)
    assert torch.equal(x + layer(x), x)
    assert not list(layer.parameters())
