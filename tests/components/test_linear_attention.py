import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.components.attention._shape import AttentionShape
from archlab.config.registry import find


def build(position="none", num_heads=4, num_kv_heads=2, **knobs):
    torch.manual_seed(0)
    placed = find("position", position).cls(num_heads, 6)
    return find("attention", "linear").cls(AttentionShape(num_heads, num_kv_heads, 6, 5, 1.0), placed, **knobs).double()


def inputs(num_tokens, num_heads=4, num_kv_heads=2):
    torch.manual_seed(1)
    widths = ((num_heads, 6), (num_kv_heads, 6), (num_kv_heads, 5))
    return [torch.randn(2, num_tokens, *width, dtype=torch.float64, requires_grad=True) for width in widths]


def features(x):
    return torch.where(x > 0, x + 1, x.clamp_max(0).exp())


def loop(layer, q, k, v):
    """Weigh every earlier value by f(q) f(k), head by head."""
    group = q.shape[2] // k.shape[2]
    fq, fk = features(q), features(k)
    position = torch.arange(q.shape[1])[None]
    rq, rk = layer.position.rotate(fq, position), layer.position.rotate(fk, position)
    y = []
    for t in range(q.shape[1]):
        for h in range(q.shape[2]):
            g = h // group
            weights = (rq[:, t : t + 1, h] * rk[:, : t + 1, g]).sum(-1, keepdim=True)
            total = (fq[:, t : t + 1, h] * fk[:, : t + 1, g]).sum((1, 2))[:, None] + layer.eps
            y.append((weights * v[:, : t + 1, g]).sum(1) / total)
    return torch.stack(y, 1).unflatten(1, (q.shape[1], q.shape[2]))


@pytest.mark.parametrize("position", ["none", "rope"])
@pytest.mark.parametrize("num_tokens", [1, 20, 64, 131])
def test_agrees_with_a_loop(position, num_tokens):
    layer, qkv = build(position), inputs(num_tokens)
    assert_same_gradients(layer(*qkv)[0], loop(layer, *qkv), qkv)


@pytest.mark.parametrize("position", ["none", "rope"])
@pytest.mark.parametrize("num_kv_heads", [1, 4])
def test_streams(position, num_kv_heads):
    layer = build(position, num_kv_heads=num_kv_heads)
    assert_one_stream(layer, *(x.detach() for x in inputs(70, num_kv_heads=num_kv_heads)))


def test_sums_stay_wide_under_autocast():
    layer, qkv = build().float(), [x.detach().bfloat16() for x in inputs(70)]
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(*qkv)
    assert y.dtype == torch.bfloat16
    assert state["sums"].dtype == state["norms"].dtype == torch.float32
    assert torch.equal(y, layer(*(x.float() for x in qkv))[0].bfloat16())


@pytest.mark.parametrize("position", ["alibi", "relative_bias"])
def test_refuses_positions_that_add_to_scores(position):
    with pytest.raises(ValueError, match=r"no scores for (ALiBi|RelativeBias) to add to"):
        build(position)
