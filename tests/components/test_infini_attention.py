import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.components.attention._shape import AttentionShape
from archlab.config.registry import find

K, V, SEGMENT = 6, 5, 4
updates = pytest.mark.parametrize("update", ["delta", "linear"])


def build(update="delta", position="rope", num_heads=4, num_kv_heads=2, segment_size=SEGMENT):
    torch.manual_seed(0)
    placed = find("position", position).cls(num_heads, K)
    infini = find("attention", "infini").cls
    shape = AttentionShape(num_heads, num_kv_heads, K, V, 0.4)
    layer = infini(shape, placed, segment_size=segment_size, update=update).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def inputs(num_tokens, batch_size=2, num_heads=4, num_kv_heads=2, seed=1):
    torch.manual_seed(seed)
    widths = ((num_heads, K), (num_kv_heads, K), (num_kv_heads, V))
    return [torch.randn(batch_size, num_tokens, *width, dtype=torch.float64, requires_grad=True) for width in widths]


def features(x):
    return torch.where(x > 0, x + 1, x.clamp_max(0).exp())


def local(layer, q, k, v):
    """Return [T, V] of one head in one segment, query by query."""
    place = torch.arange(len(q))[None]
    q, k = (layer.local.position.rotate(x[None, :, None], place)[0, :, 0] for x in (q, k))
    weights = [torch.exp(k[: t + 1] @ q[t] * 0.4) for t in range(len(q))]
    return torch.stack([w @ v[: len(w)] / w.sum() for w in weights])


def one_head(layer, share, q, k, v):
    """Return [T, V] of one head, segment by segment, and the memory after the last complete one."""
    memory, norm, outputs = torch.zeros(K, V).double(), torch.zeros(K).double(), []
    for qs, ks, vs in zip(*(x.split(layer.segment_size) for x in (q, k, v)), strict=True):
        weight = 1 / (1 + torch.exp(-share))
        found = torch.zeros(len(qs), V).double()
        if norm.any():
            found = torch.stack([row @ memory / (row @ norm) for row in features(qs)])
        outputs.append(weight * found + (1 - weight) * local(layer, qs, ks, vs))
        if len(ks) < layer.segment_size:
            break
        added = torch.zeros(K, V).double()
        for key, value in zip(features(ks), vs, strict=True):
            known = key @ memory / (key @ norm) if layer.update == "delta" and norm.any() else 0
            added = added + torch.outer(key, value - known)
        memory, norm = memory + added, norm + features(ks).sum(0)
    return torch.cat(outputs), memory, norm


def plain(layer, q, k, v):
    group = q.shape[2] // k.shape[2]
    samples = [
        [
            one_head(layer, layer.share[h], q[b, :, h], k[b, :, h // group], v[b, :, h // group])
            for h in range(q.shape[2])
        ]
        for b in range(len(q))
    ]
    y = torch.stack([torch.stack([head[0] for head in heads], 1) for heads in samples])
    memory = torch.stack([torch.stack([head[1] for head in heads[::group]]) for heads in samples])
    norms = torch.stack([torch.stack([head[2] for head in heads[::group]]) for heads in samples])
    return torch.cat([x.flatten() for x in (y, memory, norms)])


def ours(layer, q, k, v, state=None):
    y, after = layer(q, k, v, state)
    return torch.cat([x.flatten() for x in (y, after["memory"], after["norms"])])


@updates
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("num_tokens", [1, 3, 4, 5, 8, 13])
def test_agrees_with_a_loop_over_segments(update, num_heads, num_kv_heads, num_tokens):
    layer = build(update, num_heads=num_heads, num_kv_heads=num_kv_heads)
    qkv = inputs(num_tokens, num_heads=num_heads, num_kv_heads=num_kv_heads)
    leaves = [*qkv, layer.share]
    expected = plain(layer, *qkv)
    found = torch.stack([ours(layer, *qkv), ours(layer, *qkv, layer.init_state(2))])
    assert_same_gradients(found, torch.stack([expected, expected]), leaves)


@updates
@pytest.mark.parametrize("segment_size", [1, 3, 16])
def test_agrees_at_other_segments(update, segment_size):
    layer, qkv = build(update, segment_size=segment_size), inputs(11)
    assert_same_gradients(ours(layer, *qkv), plain(layer, *qkv), [*qkv, layer.share])


@updates
@pytest.mark.parametrize("position", ["rope", "relative_bias"])
@pytest.mark.parametrize("num_tokens", [5, 13])
def test_streams(update, position, num_tokens):
    assert_one_stream(build(update, position), *(x.detach() for x in inputs(num_tokens)))


@updates
@pytest.mark.parametrize("cut", [1, 3, 4, 5, 7, 8, 9, 12])
def test_a_cut_anywhere_changes_nothing(update, cut):
    layer, qkv = build(update), inputs(13)
    first, state = layer(*(x[:, :cut] for x in qkv))
    second, after = layer(*(x[:, cut:] for x in qkv), state)
    whole, last = layer(*qkv)
    assert_same_gradients(torch.cat((first, second), 1), whole, [*qkv, layer.share])
    torch.testing.assert_close(after, last, rtol=1e-10, atol=1e-10)


@updates
@torch.no_grad()
def test_samples_may_stand_at_different_places_of_their_segments(update):
    layer, qkv, pasts = build(update), inputs(9, batch_size=1, seed=2), [2, 3, 7, 8]
    states = [layer.reserve_state(layer(*inputs(past, batch_size=1))[1], None) for past in pasts]
    joined = {key: torch.cat([state[key] for state in states]) for key in states[0]}
    together, after = layer(*(x.expand(len(pasts), -1, -1, -1) for x in qkv), joined)
    for row, state in enumerate(states):
        alone, alone_after = layer(*qkv, state)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close({k: v[row : row + 1] for k, v in after.items()}, alone_after, rtol=1e-10, atol=1e-10)


def test_features_that_vanish_leave_outputs_and_gradients_finite():
    """In float32 elu + 1 is exactly 0 from about -17 on."""
    layer, (q, k, v) = build().float(), (x.detach().float() for x in inputs(13))
    q, k = (q - 100).requires_grad_(), (k - 100).requires_grad_()
    y, _ = layer(q, k, v)
    grads = torch.autograd.grad(y.square().sum(), [q, k, layer.share])
    assert all(bool(x.isfinite().all()) for x in (y, *grads))


def test_memory_stays_wide_under_autocast():
    layer, qkv = build().float(), [x.detach().bfloat16() for x in inputs(9)]
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(*qkv)
    assert y.dtype == torch.bfloat16
    assert {state[key].dtype for key in ("memory", "norms", "next_memory", "next_norms")} == {torch.float32}
