import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.components.mixer.mega import Mega
from archlab.config.registry import find


def build(**knobs):
    torch.manual_seed(0)
    mixer = Mega(8, **knobs).double()
    torch.nn.init.normal_(mixer.gamma)
    torch.nn.init.normal_(mixer.beta)
    return mixer


def silu(x):
    return x * torch.sigmoid(x)


def affine(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def paper(mixer, x, num_heads):
    """Mega's equations with the update gate as in the paper: what the mixer's output plus x should be."""
    averaged, T = mixer.ema(x)[0], x.shape[1]
    z, v = silu(affine(mixer.shared, averaged)), silu(affine(mixer.value, x))
    q, k = (z * mixer.gamma[i] + mixer.beta[i] for i in range(2))
    distance = torch.arange(T)[:, None] - torch.arange(T)
    heads = []
    for h, (qh, kh, vh) in enumerate(zip(*(a.chunk(num_heads, -1) for a in (q, k, v)), strict=True)):
        scores = qh @ kh.transpose(1, 2) / qh.shape[-1] ** 0.5
        scores = scores + mixer.attention.position.weight[h][distance.clamp_min(0)]
        heads.append(scores.masked_fill(distance < 0, -torch.inf).softmax(-1) @ vh)
    reset = silu(affine(mixer.reset, averaged))
    hidden = silu(affine(mixer.hidden, averaged) + affine(mixer.out, reset * torch.cat(heads, -1)))
    update = torch.sigmoid(affine(mixer.update, averaged))
    return update * hidden + (1 - update) * x


@pytest.mark.parametrize("num_heads", [1, 2])
def test_agrees_with_the_equations(num_heads):
    mixer, x = build(num_heads=num_heads), torch.randn(2, 9, 8, dtype=torch.float64, requires_grad=True)
    assert_same_gradients(x + mixer(x)[0], paper(mixer, x, num_heads), [x, *mixer.parameters()])


def test_widths_unless_said_otherwise():
    mixer = build()
    assert (mixer.shared.out_features, mixer.value.out_features) == (2, 16)


@pytest.mark.parametrize("ema", ["ema", "short_conv", "none"])
@pytest.mark.parametrize("attention", ["softmax", "laplace", "relu2"])
def test_streams(ema, attention):
    mixer = build(ema=find("ema", ema).cls, attention=find("attention", attention).cls)
    assert_one_stream(mixer, torch.randn(2, 9, 8, dtype=torch.float64))


def test_dropout_only_in_training():
    mixer, x = build(dropout=0.5), torch.randn(1, 5, 8, dtype=torch.float64)
    assert not torch.equal(mixer(x)[0], mixer(x)[0])
    mixer.eval()
    assert torch.equal(mixer(x)[0], mixer(x)[0])


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"shared_dim": 9, "num_heads": 2}, "shared_dim 9 is not divisible by num_heads 2"),
        ({"value_dim": 9, "num_heads": 2}, "value_dim 9 is not divisible by num_heads 2"),
        ({"position": find("position", "sinusoidal").cls}, "is a position of the embedding"),
    ],
)
def test_refuses_what_does_not_fit(knobs, problem):
    with pytest.raises(ValueError, match=problem):
        build(**knobs)
