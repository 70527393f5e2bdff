from functools import partial

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.components.mixer.attention import MultiHeadAttention
from archlab.config.registry import find


def build(**knobs):
    torch.manual_seed(0)
    return MultiHeadAttention(12, **knobs).double()


def affine(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def plain(mixer, x, num_heads, num_kv_heads, head_dim):
    """Causal softmax attention, one head after the other."""
    T = x.shape[1]
    q, k, v = affine(mixer.query, x), affine(mixer.key, x), affine(mixer.value, x)
    q, k = mixer.wide_query_norm(q), mixer.wide_key_norm(k)
    rotate, position = mixer.attention.position.rotate, torch.arange(T)[None]
    heads, scale = [], mixer.attention.shape.scale
    gates = None if mixer.gate is None else affine(mixer.gate, x).sigmoid()
    for h in range(num_heads):
        g = h * num_kv_heads // num_heads
        qh, kh, vh = (a[..., i * head_dim : (i + 1) * head_dim] for a, i in ((q, h), (k, g), (v, g)))
        qh, kh = mixer.query_norm(qh), mixer.key_norm(kh)
        qh, kh = (rotate(a[:, :, None], position)[:, :, 0] for a in (qh, kh))
        scores = qh @ kh.transpose(1, 2) * scale
        hidden = torch.ones(T, T).triu(1).bool()
        heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ vh)
        if gates is not None:
            width = gates.shape[-1] // num_heads
            heads[-1] = heads[-1] * gates[..., h * width : (h + 1) * width]
    return affine(mixer.out, torch.cat(heads, -1))


@pytest.mark.parametrize(
    ("knobs", "widths"),
    [
        ({"num_heads": 2}, (2, 2, 6)),
        ({"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "bias": True}, (4, 2, 8)),
        ({"num_heads": 3, "num_kv_heads": 1}, (3, 1, 4)),
        ({"num_heads": 3, "num_kv_heads": 1, "scale": 0.7, "qk_norm": find("norm", "rms").cls}, (3, 1, 4)),
        ({"num_heads": 3, "num_kv_heads": 1, "wide_qk_norm": find("norm", "rms").cls}, (3, 1, 4)),
        ({"num_heads": 2, "qk_norm": find("norm", "layer").cls, "bias": True, "output_gate": "head"}, (2, 2, 6)),
        ({"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "bias": True, "output_gate": "feature"}, (4, 2, 8)),
        ({"num_heads": 2, "out_bias": True}, (2, 2, 6)),
        ({"num_heads": 2, "bias": True, "out_bias": False}, (2, 2, 6)),
    ],
)
def test_agrees_with_heads_in_turn(knobs, widths):
    mixer, x = build(**knobs), torch.randn(2, 9, 12, dtype=torch.float64, requires_grad=True)
    for norm in (mixer.query_norm, mixer.key_norm, mixer.wide_query_norm, mixer.wide_key_norm):
        for parameter in norm.parameters():
            torch.nn.init.normal_(parameter)
    assert_same_gradients(mixer(x)[0], plain(mixer, x, *widths), [x, *mixer.parameters()])
    assert (mixer.query.bias is not None) == knobs.get("bias", False)
    assert (mixer.out.bias is not None) == knobs.get("out_bias", knobs.get("bias", False))
    assert mixer.attention.shape.scale == knobs.get("scale", widths[2] ** -0.5)


@pytest.mark.parametrize("attention", ["softmax", "laplace", "linear"])
def test_streams(attention):
    mixer = build(num_heads=2, attention=find("attention", attention).cls)
    assert_one_stream(mixer, torch.randn(2, 9, 12, dtype=torch.float64))


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"num_heads": 5}, "dim 12 is not divisible by num_heads 5"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_heads 4 is not divisible by num_kv_heads 3"),
        ({"num_heads": 4}, "head_dim 3 is odd"),
        ({"qk_norm": partial(find("norm", "timestep").cls, num_groups=1)}, "^qk_norm TimestepNorm has a state"),
        ({"wide_qk_norm": partial(find("norm", "timestep").cls, num_groups=1)}, "wide_qk_norm TimestepNorm has a"),
        ({"position": find("position", "learned").cls}, "is a position of the embedding"),
    ],
)
def test_refuses_what_does_not_fit(knobs, problem):
    with pytest.raises(ValueError, match=problem):
        build(**knobs)
