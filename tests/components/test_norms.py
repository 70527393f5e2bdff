import pytest
import torch
from streams import assert_same_gradients
from torch import nn

from archlab.config.registry import find

EPS = 1e-3


def build(name, dim=12, **knobs):
    torch.manual_seed(0)
    layer = find("norm", name).cls(dim, **knobs).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def scaled(y, layer):
    if layer.weight is not None:
        y = y * (layer.weight + (1 if layer.zero_centered else 0))
    return y if layer.bias is None else y + layer.bias


def plain_rms(x, layer):
    return scaled(x / (x.pow(2).sum(-1, keepdim=True) / x.shape[-1] + EPS).sqrt(), layer)


def plain_layer(x, layer):
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    return scaled(centred / (centred.pow(2).sum(-1, keepdim=True) / x.shape[-1] + EPS).sqrt(), layer)


def plain_group(x, layer):
    size = x.shape[-1] // layer.num_groups
    parts = []
    for part in x.split(size, dim=-1):
        centred = part - part.sum(-1, keepdim=True) / size
        parts.append(centred / (centred.pow(2).sum(-1, keepdim=True) / size + EPS).sqrt())
    return scaled(torch.cat(parts, -1), layer)


def plain_scale(x, layer):
    return layer.length * x / x.pow(2).sum(-1, keepdim=True).sqrt()


CASES = [
    ("rms", {}, plain_rms),
    ("rms", {"zero_centered": False}, plain_rms),
    ("rms", {"affine": False}, plain_rms),
    ("layer", {}, plain_layer),
    ("layer", {"bias": False}, plain_layer),
    ("layer", {"affine": False}, plain_layer),
    ("layer", {"zero_centered": False}, plain_layer),
    ("group", {"num_groups": 3}, plain_group),
    ("group", {"num_groups": 4, "affine": False}, plain_group),
    ("scale", {}, plain_scale),
]


@pytest.mark.parametrize(("name", "knobs", "plain"), CASES)
@pytest.mark.parametrize("shape", [(12,), (2, 5, 12), (2, 3, 1, 12)])
def test_agrees_with_the_formula(name, knobs, plain, shape):
    layer = build(name, eps=EPS, **knobs)
    x = (torch.randn(shape, dtype=torch.float64) * 0.1).requires_grad_()
    assert_same_gradients(layer(x), plain(x, layer), [x, *layer.parameters()])


@pytest.mark.parametrize("shape", [(12,), (2, 5, 12), (2, 3, 1, 12)])
def test_dynamic_tanh_agrees_with_the_formula(shape):
    layer = build("dyt", init_alpha=0.8)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    twice = (2 * layer.alpha * x).exp()
    plain = layer.weight * (twice - 1) / (twice + 1) + layer.bias
    assert_same_gradients(layer(x), plain, [x, *layer.parameters()])


def test_dynamic_tanh_begins_at_its_alpha():
    layer = find("norm", "dyt").cls(12, init_alpha=0.25)
    x = torch.linspace(-3, 3, 12)
    torch.testing.assert_close(layer(x), torch.tanh(x / 4))


@pytest.mark.parametrize("name", ["rms", "layer", "group", "scale"])
def test_begins_with_unit_variance(name):
    x = 7 * torch.randn(50, 64)
    y = find("norm", name).cls(64)(x)
    assert y.square().mean(-1).sub(1).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["rms", "layer", "group", "scale"])
def test_half_precision_is_rounded_once(name):
    layer = build(name, 16).float()
    x = (100 + torch.randn(4, 16)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x.float()).bfloat16())


@pytest.mark.parametrize("name", ["rms", "layer", "group", "scale"])
def test_zeros_stay_finite(name):
    x = torch.zeros(3, 16, requires_grad=True)
    y = find("norm", name).cls(16)(x)
    y.sum().backward()
    assert not y.any()
    assert x.grad.isfinite().all()


def test_none_is_the_identity():
    x = torch.randn(3, 16)
    assert find("norm", "none").cls(16)(x) is x


def test_groups_must_divide_dim():
    with pytest.raises(ValueError, match="dim 12 is not divisible by num_groups 5"):
        find("norm", "group").cls(12, num_groups=5)
    with pytest.raises(ValueError, match="each of 12 groups, or heads of a mixer, has one channel"):
        find("norm", "group").cls(12, num_groups=12)


def test_a_tanh_that_ends_a_branch_is_shrunk_by_its_scale():
    layer, x = find("norm", "dyt").cls(12), torch.randn(2, 3, 12)
    whole = layer(x).detach()
    layer.shrink_branch(0.25)
    torch.testing.assert_close(layer(x), whole / 4)
