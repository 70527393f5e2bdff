"""Bidirectional attention is a softmax over all keys, and position biases depend on the distance alone."""

import pytest
import torch
from streams import assert_same_gradients

from archlab.components.attention._shape import AttentionShape
from archlab.config.registry import find
from archlab.config.spec import parse
from archlab.modeling.backbone import is_causal
from archlab.modeling.build import build_on_meta

TREE = {
    "type": "stack",
    "vocab_size": 17,
    "dim": 12,
    "layers": [{"mixer": {"type": "attention", "num_heads": 3, "attention": "bidirectional"}, "repeat": 2}],
}


def build(position="none", num_heads=4, num_kv_heads=2, **knobs):
    torch.manual_seed(0)
    placed = find("position", position).cls(num_heads, 6).double()
    return (
        find("attention", "bidirectional")
        .cls(AttentionShape(num_heads, num_kv_heads, 6, 5, 0.3), placed, **knobs)
        .double()
    )


def inputs(num_tokens, num_heads=4, num_kv_heads=2):
    torch.manual_seed(1)
    widths = ((num_heads, 6), (num_kv_heads, 6), (num_kv_heads, 5))
    return [torch.randn(2, num_tokens, *width, dtype=torch.float64, requires_grad=True) for width in widths]


def loop(layer, q, k, v, bias):
    """Weigh all values for each query, head by head."""
    group, steps = q.shape[2] // k.shape[2], torch.arange(q.shape[1])[None]
    q, k = layer.position.rotate(q, steps), layer.position.rotate(k, steps)
    y = torch.stack(
        [
            (0.3 * (q[:, t : t + 1, h] * k[:, :, h // group]).sum(-1) + bias[h, t]).softmax(-1)[:, None]
            @ v[:, :, h // group]
            for t in range(q.shape[1])
            for h in range(q.shape[2])
        ],
        1,
    )
    return y[:, :, 0].unflatten(1, q.shape[1:3])


def expected_bias(layer, position, num_tokens):
    distance = (torch.arange(num_tokens)[:, None] - torch.arange(num_tokens)).abs()
    if position == "alibi":
        return -torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])[:, None, None] * distance
    if position == "relative_bias":
        return layer.position.weight[:, distance]
    return torch.zeros(4, num_tokens, num_tokens)


@pytest.mark.parametrize("position", ["none", "rope", "alibi", "relative_bias"])
@pytest.mark.parametrize("num_tokens", [1, 7])
def test_agrees_with_a_loop(position, num_tokens):
    layer, qkv = build(position), inputs(num_tokens)
    bias = expected_bias(layer, position, num_tokens)
    assert_same_gradients(layer(*qkv), loop(layer, *qkv, bias), qkv)


def test_dropout_falls_on_training_alone():
    layer, qkv = build(dropout=0.5), inputs(9)
    assert not torch.equal(layer(*qkv), layer(*qkv))
    assert torch.equal(layer.eval()(*qkv), build()(*qkv))


def test_a_model_with_it_looks_ahead_and_says_so():
    assert not is_causal(build_on_meta(parse(TREE, "backbone", "model")))
    layer, (q, k, v) = build(), inputs(5)
    before = layer(q, k, v)
    v = v.detach().clone()
    v[:, -1] += 1
    assert not torch.isclose(layer(q, k, v)[:, 0], before[:, 0]).any()


@pytest.mark.slow
def test_compiles_without_a_break():
    layer, qkv = build("alibi"), inputs(7)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_same_gradients(compiled(*qkv), layer(*qkv), qkv)
