import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.components.attention._shape import AttentionShape
from archlab.config.registry import find
from archlab.modeling.state import auxiliary_loss

K, V, SCALE = 6, 5, 0.4
# window, memory, compressed, rate
SIZES = [
    (4, 4, 2, 2),
    (4, 6, 3, 2),
    (3, 6, 1, 3),
    (4, 4, 5, 1),
    (2, 8, 4, 2),
    (4, 4, 0, 2),
    (4, 3, 0, 2),
    (1, 1, 2, 1),
    (2, 2, 8, 2),  # groups that go further back than the keys of the state
]
sizes = pytest.mark.parametrize("size", SIZES)


def build(size=SIZES[0], position="rope", num_heads=4, num_kv_heads=2):
    torch.manual_seed(0)
    placed = find("position", position).cls(num_heads, K)
    named = dict(zip(("window_size", "memory_size", "compressed_size", "compression_rate"), size, strict=True))
    shape = AttentionShape(num_heads, num_kv_heads, K, V, SCALE)
    layer = find("attention", "compressive").cls(shape, placed, **named).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return layer


def inputs(num_tokens, batch_size=2, num_heads=4, num_kv_heads=2, seed=1):
    torch.manual_seed(seed)
    widths = ((num_heads, K), (num_kv_heads, K), (num_kv_heads, V))
    return [torch.randn(batch_size, num_tokens, *width, dtype=torch.float64, requires_grad=True) for width in widths]


def turned(layer, x_K, place):
    return layer.position.rotate(x_K[None, None, None], torch.tensor([[place]]))[0, 0, 0]


def mean_of(q, keys, values, biases=None):
    scores = [q @ key * SCALE for key in keys]
    weights = [(s + b).exp() for s, b in zip(scores, biases or [0] * len(scores), strict=True)]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def squeezed(layer, g, keys, values):
    """Return one entry [K], [V] from a group's keys and values."""
    made = layer.compression
    key = sum(x.detach() @ w for x, w in zip(keys, made.key_weight[g], strict=True)) + made.key_bias[g]
    value = sum(x.detach() @ w for x, w in zip(values, made.value_weight[g], strict=True)) + made.value_bias[g]
    return key, value


def look(layer, h, q, place, old, memory, segment):
    """Attend to the compressed memory, the memory and the segment; positions count from their full length."""
    compressed, empty = [(k.detach(), v.detach()) for k, v in old], layer.compressed_size - len(old)
    listed = [(empty + i, *entry) for i, entry in enumerate(compressed)]
    begin = layer.compressed_size + layer.memory_size
    listed += [(begin - len(memory) + i, *entry) for i, entry in enumerate(memory)]
    listed += [(begin + i, *entry) for i, entry in enumerate(segment)]
    places = torch.tensor([[at for at, _, _ in listed]])
    bias = layer.position.bias(torch.tensor([[begin + place]]), places)
    keys = [turned(layer, key, at) for at, key, _ in listed]
    biases = None if bias is None else list(bias[0, h, 0])
    return mean_of(turned(layer, q, begin + place), keys, [value for _, _, value in listed], biases)


def one_head(layer, h, g, q, k, v):
    """Return [T, V] and losses [T] of one head: memories as first-in-first-out queues of segments, as in the paper."""
    W, c = layer.window_size, layer.rate
    memory, old, outputs, losses = [], [], [], []
    for begin in range(0, len(q), W):
        segment = list(zip(k[begin : begin + W], v[begin : begin + W], strict=True))
        leaving = memory[: max(0, len(memory) + W - layer.memory_size)]
        groups = [leaving[i : i + c] for i in range(0, len(leaving), c)] if layer.compressed_size else []
        made = [squeezed(layer, g, *zip(*group, strict=True)) for group in groups]
        for place, query in enumerate(q[begin : begin + W]):
            outputs.append(look(layer, h, query, place, old, memory, segment[: place + 1]))
            losses.append(missed(query.detach(), leaving, made) if made else torch.zeros(()).double())
        memory = (memory + segment)[-layer.memory_size :]
        old = (old + made)[-layer.compressed_size :] if layer.compressed_size else []
    return torch.stack(outputs), torch.stack(losses)


def missed(query, leaving, made):
    truth = mean_of(query, [k.detach() for k, _ in leaving], [v.detach() for _, v in leaving])
    found = mean_of(query, [k for k, _ in made], [v for _, v in made])
    return (found - truth).square().mean()


def plain(layer, q, k, v):
    """Return outputs [B, T, H, V] and the summed losses [B]."""
    H, group = q.shape[2], q.shape[2] // k.shape[2]
    samples = [
        [one_head(layer, h, h // group, q[b, :, h], k[b, :, h // group], v[b, :, h // group]) for h in range(H)]
        for b in range(len(q))
    ]
    y = torch.stack([torch.stack([y for y, _ in heads], 1) for heads in samples])
    loss = torch.stack([torch.stack([loss for _, loss in heads]).mean(0).sum() for heads in samples])
    return torch.cat((y.flatten(), loss))


def ours(layer, q, k, v, state=None):
    y, after = layer(q, k, v, state)
    return torch.cat((y.flatten(), auxiliary_loss(after).expand(len(q))))


def assert_agrees(layer, qkv):
    expected = plain(layer, *qkv)
    found = torch.stack([ours(layer, *qkv), ours(layer, *qkv, layer.init_state(len(qkv[0])))])
    assert_same_gradients_or_none(found, torch.stack([expected, expected]), [*qkv, *layer.parameters()])


def assert_same_gradients_or_none(y, expected, leaves):
    """As assert_same_gradients, where a leaf may have no part in either."""
    y, expected = (result + sum(0 * leaf.sum() for leaf in leaves) for result in (y, expected))
    assert_same_gradients(y, expected, leaves)


@pytest.mark.slow
@sizes
@pytest.mark.parametrize("num_tokens", [1, 4, 13, 22])
def test_agrees_with_queues_of_segments(size, num_tokens):
    assert_agrees(build(size), inputs(num_tokens))


@pytest.mark.slow
@pytest.mark.parametrize("position", ["none", "alibi", "relative_bias"])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(3, 1), (2, 2)])
def test_agrees_with_other_heads_and_positions(position, num_heads, num_kv_heads):
    heads = {"num_heads": num_heads, "num_kv_heads": num_kv_heads}
    assert_agrees(build(position=position, **heads), inputs(17, **heads))


@sizes
@pytest.mark.parametrize("num_tokens", [5, 21])
def test_streams(size, num_tokens):
    assert_one_stream(build(size), *(x.detach() for x in inputs(num_tokens)))


@sizes
@pytest.mark.parametrize("cut", [1, 3, 4, 5, 8, 9, 11, 12, 15])
def test_a_cut_anywhere_changes_nothing(size, cut):
    layer, qkv = build(size), inputs(17)
    first, state = layer(*(x[:, :cut] for x in qkv))
    second, after = layer(*(x[:, cut:] for x in qkv), state)
    whole, last = layer(*qkv)
    cut_in_two = torch.cat((torch.cat((first, second), 1).flatten(), auxiliary_loss(after).expand(2)))
    in_one = torch.cat((whole.flatten(), auxiliary_loss(last).expand(2)))
    assert_same_gradients_or_none(cut_in_two, in_one, [*qkv, *layer.parameters()])
    with_room = [
        layer.reserve_state(x, None) for x in (after, last)
    ]  # a call makes room for a group that it may complete
    torch.testing.assert_close(*with_room, rtol=1e-10, atol=1e-10)


@sizes
@torch.no_grad()
def test_samples_may_stand_at_different_places_of_their_segments(size):
    layer, qkv, pasts = build(size), inputs(9, batch_size=1, seed=2), [2, 3, 7, 13]
    states = [layer.reserve_state(layer(*inputs(past, batch_size=1))[1], None) for past in pasts]
    joined = {key: torch.cat([state[key] for state in states]) for key in states[0]}
    together, after = layer(*(x.expand(len(pasts), -1, -1, -1) for x in qkv), joined)
    for row, state in enumerate(states):
        alone, alone_after = layer(*qkv, state)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close({k: v[row : row + 1] for k, v in after.items()}, alone_after, rtol=1e-10, atol=1e-10)


def test_each_loss_trains_its_own():
    """The task's loss moves the attention alone, and the auxiliary loss the compression alone."""
    layer, qkv = build(), inputs(17)
    y, state = layer(*qkv)
    made = list(layer.compression.parameters())
    of_task = torch.autograd.grad(y.square().sum(), [*qkv, *made], allow_unused=True, retain_graph=True)
    of_loss = torch.autograd.grad(auxiliary_loss(state).sum(), [*qkv, *made], allow_unused=True)
    assert [grad is not None for grad in of_task] == [True] * 3 + [False] * 4
    assert [grad is not None for grad in of_loss] == [False] * 3 + [True] * 4


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="compression_rate 3 does not divide window_size 4 and memory_size 4"):
        build((4, 4, 2, 3))
    with pytest.raises(ValueError, match="memory_size 2 is less than window_size 4"):
        build((4, 2, 2, 2))
