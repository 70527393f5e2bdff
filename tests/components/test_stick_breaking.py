"""Stick-breaking attention as a loop over queries, heads and keys, in float64."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients, in_pieces

from archlab.components.attention._shape import AttentionShape
from archlab.components.attention.stick_breaking import StickBreakingAttention
from archlab.config.registry import find

H, G, K, V, SCALE, NUM_TOKENS = 4, 2, 6, 5, 0.7, 13
WINDOWS = {"full": 16, "sliding": 4, "chunk": 5}
everywhere = pytest.mark.parametrize("window", WINDOWS)
any_own = pytest.mark.parametrize("own", ["none", "key", "rest"])


def build(window="full", position="none", **knobs):
    placed = find("position", position).cls(H, K)
    shape, size = AttentionShape(H, G, K, V, SCALE), WINDOWS[window]
    return StickBreakingAttention(shape, placed, window=window, window_size=size, **knobs).double()


def inputs(num_tokens=NUM_TOKENS, scale=1.0):
    torch.manual_seed(1)
    widths = ((H, K), (G, K), (G, V))
    tensors = [torch.randn(2, num_tokens, *width, dtype=torch.float64) for width in widths]
    return [(x * scale).requires_grad_() for x in tensors[:2]] + [tensors[2].requires_grad_()]


def first_seen(window, t):
    return {"full": 0, "sliding": max(0, t - 3), "chunk": t - t % 5}[window]


def loop(layer, window, q, k, v):
    """Break the stick of each query from the nearest key on."""
    rotate = lambda x, t: layer.position.rotate(x[:, None, None], torch.tensor([[t]]))[:, 0, 0]  # noqa: E731
    rows = []
    for t in range(q.shape[1]):
        for h in range(H):
            left, y = torch.ones(2, 1, dtype=q.dtype), torch.zeros(2, V, dtype=q.dtype)
            for s in range(t if layer.own == "key" else t - 1, first_seen(window, t) - 1, -1):
                score = (rotate(q[:, t, h], t) * rotate(k[:, s, h // 2], s)).sum(-1, keepdim=True) * SCALE
                bias = layer.position.bias(torch.tensor([[t]]), torch.tensor([[s]]))
                taken = 1 / (1 + (-(score + (0 if bias is None else bias[0, h, 0, 0]))).exp())
                y = y + left * taken * v[:, s, h // 2]
                left = left * (1 - taken)
            rows.append(y + left * v[:, t, h // 2] if layer.own == "rest" else y)
    return torch.stack(rows, 1).unflatten(1, (-1, H))


@pytest.mark.slow
@everywhere
@any_own
@pytest.mark.parametrize("position", ["none", "rope", "alibi"])
def test_agrees_with_a_loop_in_one_call_and_in_several(window, own, position):
    layer, qkv = build(window, position, own=own), inputs()
    expected = loop(layer, window, *qkv)
    ours = [layer(*qkv)[0], *(in_pieces(layer, qkv, sizes)[0] for sizes in ([1] * 13, [3, 7, 1, 2]))]
    assert_same_gradients(torch.stack(ours), torch.stack([expected] * 3), qkv)


@everywhere
@any_own
def test_streams(window, own):
    assert_one_stream(build(window, own=own), *(x.detach() for x in inputs()))


def test_a_query_without_an_earlier_key_has_nothing_but_its_own():
    q, k, v = inputs(1)
    assert torch.equal(build()(q, k, v)[0], torch.zeros(2, 1, H, V).double())
    torch.testing.assert_close(build(own="rest")(q, k, v)[0], v.repeat_interleave(2, 2))


@torch.no_grad()
def test_scores_of_any_size_keep_their_digits_in_float32():
    qkv = inputs(200, scale=6.0)  # scores beyond 100, of which sums over a window reach ten thousand
    layer = StickBreakingAttention(AttentionShape(H, G, K, V, SCALE), find("position", "none").cls(H, K))
    expected, _ = layer.double()(*qkv)
    actual, _ = layer.float()(*(x.float() for x in qkv))
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)
    assert expected.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gradients_are_finite_where_sticks_are_used_up(scale):
    qkv = [x.detach().float().requires_grad_() for x in inputs(50, scale)]
    layer = StickBreakingAttention(AttentionShape(H, G, K, V, SCALE), find("position", "none").cls(H, K))
    for gradient in torch.autograd.grad(layer(*qkv)[0].square().sum(), qkv):
        assert gradient.isfinite().all()
