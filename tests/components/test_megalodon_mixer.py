import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.components.mixer.megalodon import MegalodonAttention
from archlab.config.registry import find

DIM, SHARED, VALUE, CHUNK, EPS = 6, 8, 12, 4, 1e-3


def chunked(*wiring):
    return find("attention", "softmax").cls(*wiring, window="chunk", window_size=CHUNK)


def build(perturbed=True, **knobs):
    torch.manual_seed(0)
    defaults = {"shared_dim": SHARED, "value_dim": VALUE, "attention": chunked, "eps": EPS}
    mixer = MegalodonAttention(DIM, **(defaults | knobs)).double()
    if perturbed:
        for parameter in mixer.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def tokens(num_tokens, batch_size=2):
    torch.manual_seed(1)
    return torch.randn(batch_size, num_tokens, DIM, dtype=torch.float64, requires_grad=True)


def silu(x):
    return x * torch.sigmoid(x)


def affine(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def turned(x):
    """Rotate pairs of adjacent features by the position in the block."""
    width = x.shape[-1]
    angle = (torch.arange(x.shape[1]) % CHUNK)[:, None] * 10000.0 ** (
        -torch.arange(0, width, 2, dtype=torch.float64) / width
    )
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def paper(mixer, x, num_heads):
    """Megalodon's layer without its residual, one head after the other."""
    averaged = mixer.ema(x)[0]
    m = averaged / (averaged.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (1 + mixer.norm.weight)
    z, v, reset = affine(mixer.shared, m), silu(affine(mixer.value, x)), silu(affine(mixer.reset, m))
    step = torch.arange(x.shape[1])
    hidden = (step[:, None] < step) | (step[:, None] // CHUNK != step // CHUNK)
    heads = []
    for h, (zh, vh) in enumerate(zip(z.chunk(num_heads, -1), v.chunk(num_heads, -1), strict=True)):
        width = zh.shape[-1]
        unit = zh / (zh.square().mean(-1, keepdim=True) + EPS).sqrt()
        own = slice(h * width, (h + 1) * width)
        q, k = (turned(unit * (1 + mixer.gamma[i, own]) / width**0.5 + mixer.beta[i, own]) for i in range(2))
        heads.append((q @ k.mT).masked_fill(hidden, -torch.inf).softmax(-1) @ vh)
    return affine(mixer.hidden, m) + affine(mixer.out, torch.cat(heads, -1) * reset)


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("num_tokens", [1, 3, 4, 13])
def test_agrees_with_the_equations(num_heads, num_tokens):
    mixer, x = build(num_heads=num_heads), tokens(num_tokens)
    assert_same_gradients(mixer(x)[0], paper(mixer, x, num_heads), [x, *mixer.parameters()])


@pytest.mark.parametrize("ema", ["cema", "ema", "s4d", "short_conv", "none"])
@pytest.mark.parametrize("attention", [chunked, "linear", "laplace"])
@pytest.mark.parametrize("norm", ["rms", "none"])
def test_streams(ema, attention, norm):
    cls = find("attention", attention).cls if isinstance(attention, str) else attention
    mixer = build(ema=find("ema", ema).cls, attention=cls, norm=find("norm", norm).cls)
    assert_one_stream(mixer, tokens(13).detach())


def test_a_norm_that_remembers_fits_too():
    norm = find("norm", "timestep").cls
    mixer = build(norm=lambda dim: norm(dim, num_groups=2))
    assert "norm.count" in mixer.init_state(2)
    assert_one_stream(mixer, tokens(13).detach())


def test_blocks_do_not_see_each_other_without_an_average():
    mixer = build(ema=find("ema", "none").cls)
    x, later = tokens(9), tokens(9).detach()
    later[:, 5] += 1
    difference = (mixer(x)[0] - mixer(later)[0]).abs().amax((0, 2)) > 1e-12
    assert difference.tolist() == [False] * 5 + [True] * 3 + [False]


def test_begins_with_queries_equal_to_keys_of_about_unit_length():
    q, k = build(perturbed=False, shared_dim=64, num_heads=2)._queries_and_keys(tokens(5))
    assert torch.equal(q, k)
    assert q.shape == (2, 5, 2, 32)
    torch.testing.assert_close(q.norm(dim=-1), torch.ones(2, 5, 2).double(), rtol=0, atol=2e-2)


def test_dropout_only_in_training():
    mixer, x = build(dropout=0.5), tokens(5)
    assert not torch.equal(mixer(x)[0], mixer(x)[0])
    mixer.eval()
    assert torch.equal(mixer(x)[0], mixer(x)[0])


def test_autocast_stays_close():
    mixer, x = build().float(), tokens(13).float()
    expected = mixer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)[0]
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"shared_dim": 9, "num_heads": 2}, "shared_dim 9 and value_dim 12 are not divisible by num_heads 2"),
        ({"value_dim": 9, "num_heads": 2}, "shared_dim 8 and value_dim 9 are not divisible by num_heads 2"),
        ({"shared_dim": 6, "num_heads": 2}, "head_dim 3 is odd"),
        ({"position": find("position", "learned").cls}, "is a position of the embedding"),
    ],
)
def test_refuses_what_does_not_fit(knobs, problem):
    with pytest.raises(ValueError, match=problem):
        build(**knobs)
