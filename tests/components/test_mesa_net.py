"""The mesa layer against its equations, token by token with a solver."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients
from torch.nn import functional as F

from archlab.config.registry import find

DIM, H, K = 7, 3, 4


def build(**knobs):
    torch.manual_seed(0)
    widths = {"num_heads": H, "key_dim": H * K, "value_dim": 15, "num_steps": 8}
    layer = find("mixer", "mesa_net").cls(DIM, **(widths | knobs)).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def inputs(num_tokens):
    torch.manual_seed(1)
    return torch.randn(2, num_tokens, DIM, dtype=torch.float64, requires_grad=True)


def by_head(x):
    return x.unflatten(-1, (H, -1))


def projected(part, x):
    taps, y = part.ema.weight, x @ part.map.weight.T
    seen = [sum(taps[-1 - j] * y[:, t - j] for j in range(min(len(taps), t + 1))) for t in range(x.shape[1])]
    vectors = by_head(F.silu(torch.stack(seen, 1)))
    return vectors / (vectors.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def mesa_net(layer, x):
    q, k, v = projected(layer.query, x), projected(layer.key, x), by_head(x @ layer.value.weight.T)
    beta = torch.sigmoid(x @ layer.fraction.weight.T + layer.fraction.bias)
    decay = torch.sigmoid(x @ layer.decay.weight.T + layer.decay.bias)
    ridge = torch.diag_embed((F.softplus(layer.ridge) + layer.min_ridge).view(H, K))
    R, G, outputs = torch.zeros(2, H, K, K).double(), torch.zeros(2, H, K, v.shape[-1]).double(), []
    for t in range(x.shape[1]):
        weighted = beta[:, t, :, None] * k[:, t]
        R = decay[:, t, :, None, None] * R + torch.einsum("bhk,bhl->bhkl", weighted, k[:, t])
        G = decay[:, t, :, None, None] * G + torch.einsum("bhk,bhv->bhkv", weighted, v[:, t])
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], torch.linalg.solve(R + ridge, G)))
    y = torch.stack(outputs, 1)
    norm, gate = layer.mixed.norm, layer.mixed.gate
    y = (y / (y.square().mean(-1, keepdim=True) + norm.eps).sqrt() * (1 + norm.weight)).flatten(-2)
    return (y if gate is None else y * F.silu(x @ gate.weight.T)) @ layer.mixed.out.weight.T


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 2, 70])
def test_agrees_with_its_equations(num_tokens, gate):
    layer, x = build(gate=gate), inputs(num_tokens)
    assert_same_gradients(layer(x)[0], mesa_net(layer, x), [x, *layer.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [2, 8])
def test_streams(num_steps):
    assert_one_stream(build(num_steps=num_steps), inputs(70).detach())


def test_the_ridge_begins_at_one():
    for low, expected in ((0.25, 1.0), (0.5, 1.0), (3.0, 6.0), (1000.0, 2000.0)):
        layer = find("mixer", "mesa_net").cls(DIM, num_heads=1, min_ridge=low).double()
        torch.testing.assert_close(F.softplus(layer.ridge) + low, torch.full_like(layer.ridge, expected))


def test_gradients_are_exact_where_the_solution_is():
    assert build(num_steps=K).exact_gradients
    assert not build(num_steps=K - 1).exact_gradients


def test_sums_stay_wide_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        y, state = build().float()(inputs(70).float())
    assert (y.dtype, state["sums"].dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("width", ["key_dim", "value_dim"])
def test_refuses_widths_that_heads_do_not_share(width):
    with pytest.raises(ValueError, match=f"{width} 16 is not divisible by num_heads 3"):
        build(**{width: 16})
