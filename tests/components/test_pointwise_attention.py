import math

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.components.attention._shape import AttentionShape
from archlab.config.registry import find

NUM_TOKENS = 11


def weight(name, score):
    if name == "relu2":
        return score.clamp_min(0) ** 2
    mean, deviation = (torch.tensor(x, dtype=torch.float64).sqrt() for x in (1 / 2, 1 / (4 * math.pi)))
    return torch.distributions.Normal(mean, deviation).cdf(score)


def build(name, position, window, window_size):
    torch.manual_seed(0)
    placed = find("position", position).cls(4, 6)
    cls = find("attention", name).cls
    return cls(AttentionShape(4, 2, 6, 5, 0.1), placed, window=window, window_size=window_size).double()


def inputs():
    torch.manual_seed(1)
    widths = ((4, 6), (2, 6), (2, 5))
    return [torch.randn(2, NUM_TOKENS, *width, dtype=torch.float64, requires_grad=True) for width in widths]


def seen(t, window, window_size):
    first = {"full": 0, "chunk": t - t % window_size, "sliding": max(0, t - window_size + 1)}[window]
    return range(first, t + 1)


def loop(name, layer, q, k, v):
    """Sum the visible values of one query and head after the other."""
    y = []
    for t in range(NUM_TOKENS):
        visible = seen(t, layer.window, layer.window_size)
        for h in range(4):
            y.append(0.0)
            for s in visible:
                bias = layer.position.bias(torch.tensor([[t]]), torch.tensor([[s]]))
                score = (q[:, t, h] * k[:, s, h // 2]).sum(-1, keepdim=True) / len(visible)
                y[-1] += weight(name, score + (0 if bias is None else bias[0, h, 0, 0])) * v[:, s, h // 2]
    return torch.stack(y, 1).unflatten(1, (NUM_TOKENS, 4))


@pytest.mark.parametrize("name", ["laplace", "relu2"])
@pytest.mark.parametrize("position", ["none", "relative_bias"])
@pytest.mark.parametrize(("window", "window_size"), [("full", 16), ("chunk", 4), ("sliding", 4)])
def test_agrees_with_a_loop_and_streams(name, position, window, window_size):
    layer, qkv = build(name, position, window, window_size), inputs()
    assert_same_gradients(layer(*qkv)[0], loop(name, layer, *qkv), [*qkv, *layer.parameters()])
    assert_one_stream(layer, *(x.detach() for x in qkv))


def test_laplace_comes_close_to_relu2():
    score = torch.tensor([math.sqrt(0.5)], dtype=torch.float64, requires_grad=True)
    for name in ("laplace", "relu2"):
        value = build(name, "none", "full", 16).weigh(score)
        assert value.item() == pytest.approx(0.5)
        assert torch.autograd.grad(value, score)[0].item() == pytest.approx(math.sqrt(2))
