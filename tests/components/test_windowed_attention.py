import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import assert_one_stream, assert_same_gradients, in_pieces

from archlab.components.attention._shape import AttentionShape
from archlab.config.registry import find

HEADS, K, V, SCALE = 4, 6, 5, 0.7
WINDOWS = ["full", "chunk", "sliding"]
POSITIONS = {"none": {}, "rope": {}, "alibi": {}, "relative_bias": {"max_distance": 6}}
everywhere = pytest.mark.parametrize("window", WINDOWS)
any_position = pytest.mark.parametrize("position", POSITIONS)


def build(window, window_size, position="none", num_kv_heads=2, **knobs):
    torch.manual_seed(0)
    placed = find("position", position).cls(HEADS, K, **POSITIONS[position])
    cls = find("attention", "softmax").cls
    shape = AttentionShape(HEADS, num_kv_heads, K, V, SCALE)
    layer = cls(shape, placed, window=window, window_size=window_size, **knobs).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


CAPPED, SINKS = {"soft_cap": 0.8}, {"sinks": True}
every_change_of_scores = pytest.mark.parametrize("knobs", [CAPPED, SINKS, CAPPED | SINKS], ids=["cap", "sink", "both"])


def inputs(num_tokens, num_kv_heads=2, batch_size=2):
    torch.manual_seed(1)
    widths = ((HEADS, K), (num_kv_heads, K), (num_kv_heads, V))
    return [torch.randn(batch_size, num_tokens, *w, dtype=torch.float64, requires_grad=True) for w in widths]


def sees(window, size, t, s):
    """Whether the query at t sees the key at s."""
    return s <= t and {"full": True, "chunk": s // size == t // size, "sliding": t - s < size}[window]


def score(layer, q, k, t, s, h):
    """Return the score [B] of the query at t and the key at s, positions mixed in."""
    name, distance = type(layer.position).__name__, t - s
    if name == "RotaryPosition":
        angle = distance * 10000.0 ** (-2 * torch.arange(K // 2, dtype=torch.float64) / K)
        q, k = (torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) for x in (q, k))
        return capped(layer, (q * k.conj() * torch.polar(torch.ones_like(angle), angle)).sum(-1).real * SCALE)
    bias = 0.0
    if name == "ALiBi":
        bias = -distance * 2.0 ** (-8 * (h + 1) / HEADS)
    if name == "RelativeBias":
        bias = layer.position.weight[h, min(distance, 5)]
    return capped(layer, (q * k).sum(-1) * SCALE) + bias


def capped(layer, score):
    return score if layer.soft_cap is None else layer.soft_cap * (score / layer.soft_cap).tanh()


def plain(layer, q, k, v):
    """One query and head after the other, over the keys that it sees."""
    share, outputs = HEADS // k.shape[2], []
    for t in range(q.shape[1]):
        seen = [s for s in range(q.shape[1]) if sees(layer.window, layer.window_size, t, s)]
        for h in range(HEADS):
            g = h // share
            scores = torch.stack([score(layer, q[:, t, h], k[:, s, g], t, s, h) for s in seen], -1)
            sink = 0 if layer.sink is None else layer.sink[h].exp()
            weights = scores.exp() / (sink + scores.exp().sum(-1, keepdim=True))
            outputs.append((weights[..., None] * v[:, seen, g]).sum(1))
    return torch.stack(outputs, 1).unflatten(1, (-1, HEADS))


@pytest.mark.slow
@everywhere
@any_position
@pytest.mark.parametrize(("num_tokens", "size"), [(1, 4), (3, 4), (4, 4), (5, 4), (11, 4), (12, 4), (7, 1), (9, 2)])
def test_agrees_with_a_loop_in_one_call_and_as_a_stream(window, position, num_tokens, size):
    layer = build(window, 12 if window == "full" else size, position)
    qkv = inputs(num_tokens)
    expected, ours = plain(layer, *qkv), [layer(*qkv)[0], layer(*qkv, layer.init_state(2))[0]]
    assert_same_gradients(torch.stack(ours), torch.stack([expected, expected]), [*qkv, *layer.parameters()])


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize("position", ["rope", "alibi"])
@every_change_of_scores
@pytest.mark.parametrize(("num_tokens", "size"), [(1, 4), (3, 4), (5, 4), (11, 4)])
def test_changed_scores_agree_with_a_loop_in_one_call_and_as_a_stream(window, position, knobs, num_tokens, size):
    layer = build(window, 12 if window == "full" else size, position, **knobs)
    qkv = inputs(num_tokens)
    expected, ours = plain(layer, *qkv), [layer(*qkv)[0], layer(*qkv, layer.init_state(2))[0]]
    assert_same_gradients(torch.stack(ours), torch.stack([expected, expected]), [*qkv, *layer.parameters()])


@everywhere
@every_change_of_scores
def test_changed_scores_stream(window, knobs):
    layer = build(window, 11 if window == "full" else 4, "rope", **knobs)
    assert_one_stream(layer, *(x.detach() for x in inputs(11)))


@everywhere
@every_change_of_scores
def test_changed_scores_stay_finite_and_close_in_half_precision(window, knobs):
    layer, qkv = build(window, 11 if window == "full" else 4, "rope", **knobs), inputs(11)
    expected = torch.autograd.grad(layer(*qkv)[0].sum(), qkv)
    leaves = [x.detach().bfloat16().requires_grad_() for x in qkv]
    y, _ = layer.bfloat16()(*leaves)
    for ours, exact in zip(torch.autograd.grad(y.sum(), leaves), expected, strict=True):
        assert (ours - exact).norm() < 3e-2 * exact.norm()


@everywhere
@any_position
def test_streams(window, position):
    layer = build(window, 11 if window == "full" else 4, position)
    assert_one_stream(layer, *(x.detach() for x in inputs(11)))


@pytest.mark.slow
@everywhere
@any_position
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(num_tokens=st.integers(1, 24), cuts=st.lists(st.integers(1, 23), max_size=6), size=st.integers(1, 9))
def test_calls_cut_anywhere_equal_one_call(window, position, num_tokens, cuts, size):
    layer = build(window, num_tokens if window == "full" else size, position)
    qkv = [x.detach() for x in inputs(num_tokens)]
    ends = [0, *sorted({cut for cut in cuts if cut < num_tokens}), num_tokens]
    whole, last = layer(*qkv)
    cut, state = in_pieces(layer, qkv, [b - a for a, b in pairwise(ends)])
    torch.testing.assert_close(cut, whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@everywhere
@pytest.mark.parametrize("position", ["rope", "relative_bias"])
def test_gradients_flow_through_the_kept_keys(window, position):
    layer, qkv = build(window, 11 if window == "full" else 4, position), inputs(11)
    assert_same_gradients(in_pieces(layer, qkv, [3, 6, 1, 1])[0], layer(*qkv)[0], [*qkv, *layer.parameters()])


@everywhere
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_heads_share_keys_in_groups(window, num_kv_heads):
    layer, qkv = build(window, 9 if window == "full" else 4, "rope", num_kv_heads), inputs(9, num_kv_heads)
    assert layer.init_state(2)["keys"].shape == (2, 0, num_kv_heads, K)
    assert_same_gradients(layer(*qkv)[0], plain(layer, *qkv), qkv)


@everywhere
@any_position
@pytest.mark.parametrize("num_new", [1, 3, 9])
@pytest.mark.parametrize("grows", [False, True])
def test_rows_of_a_batch_may_stand_at_different_positions(window, position, num_new, grows):
    layer = build(window, 20 if window == "full" else 4, position)
    rows, begins = [], (0, 3, 6)
    for row, begin in enumerate(begins):
        qkv = [x.detach()[row : row + 1] for x in inputs(begin + num_new, batch_size=3)]
        old, new = zip(*(x.split([begin, num_new], 1) for x in qkv), strict=True)
        rows.append((new, layer(*old)[1] if begin else layer.init_state(1), layer(*qkv)[0][:, begin:]))
    same = [layer.reserve_state(row[1], begins[-1] if grows else 20) for row in rows]
    state = {name: torch.cat([one[name] for one in same]) for name in same[0] if not (grows and name == "reserved")}
    y, last = layer(*(torch.cat(parts) for parts in zip(*(row[0] for row in rows), strict=True)), state)
    torch.testing.assert_close(y, torch.cat([row[2] for row in rows]), rtol=1e-10, atol=1e-10)
    assert last["position"].tolist() == [begin + num_new for begin in begins]


@everywhere
@pytest.mark.parametrize("sizes", [[1], [4], [9], [3, 3, 3]])
def test_the_state_holds_what_was_read_or_the_room_that_was_reserved(window, sizes):
    layer, num_tokens = build(window, 9 if window == "full" else 4), sum(sizes)
    slots = min(num_tokens, layer.window_size)
    for state in (in_pieces(layer, inputs(num_tokens), sizes)[1], layer(*inputs(num_tokens))[1]):
        assert {name: tuple(t.shape) for name, t in state.items()} == {
            "position": (2,),
            "keys": (2, slots, 2, K),
            "values": (2, slots, 2, V),
        }
    assert layer.reserve_state(state, None)["keys"].shape[1] == layer.window_size
    assert layer.reserve_state(state, 2)["keys"].shape[1] == max(2, slots)


def test_a_stream_may_not_outgrow_the_room_that_was_reserved():
    layer, (first, more) = build("sliding", 6), zip(*(x.detach().split([4, 1], 1) for x in inputs(5)), strict=True)
    _, state = layer(*first, layer.reserve_state(layer.init_state(2), 4))
    with pytest.raises(RuntimeError, match="the stream exceeds the 4 tokens that room is reserved for"):
        layer(*more, state)


@everywhere
def test_a_call_allocates_for_what_it_reads_and_not_for_the_window(window):
    layer = build(window, 2**40).to("meta")
    _, state = layer(*(x.to("meta") for x in inputs(7)))
    for num_tokens in (1, 3):
        _, state = layer(*(x.to("meta") for x in inputs(num_tokens)), state)
    assert state["keys"].shape == (2, 11, 2, K)


def test_kept_keys_are_rotated_and_replace_the_oldest():
    layer, (q, k, v) = build("sliding", 4, "rope"), inputs(6)
    turned = layer.position.rotate(k, torch.arange(6)[None])
    state = layer(q, k, v)[1]
    torch.testing.assert_close(state["keys"], turned[:, [4, 5, 2, 3]])
    torch.testing.assert_close(state["values"], v[:, [4, 5, 2, 3]])


def test_full_attention_has_an_end_and_the_others_have_none():
    assert [build(window, 8).max_context for window in WINDOWS] == [8, None, None]


def test_full_attention_refuses_a_call_that_is_too_long():
    layer = build("full", 8)
    assert layer(*inputs(8))[0].shape[1] == 8
    with pytest.raises(ValueError, match="9 tokens are more than the window_size 8 of full attention"):
        layer(*inputs(9))


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_full_attention_refuses_a_stream_that_gets_too_long(compiled):
    layer = build("full", 8)
    call = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    many, one = ([x.detach() for x in inputs(n)] for n in (7, 1))
    _, state = call(*many, layer.init_state(2))
    _, state = call(*one, state)
    assert state["position"].tolist() == [8, 8]
    with pytest.raises(RuntimeError, match="the stream exceeds the window_size 8 of full attention"):
        call(*one, state)
    behind = state | {"position": torch.tensor([2, 8])}
    with pytest.raises(RuntimeError, match="the stream exceeds the window_size 8 of full attention"):
        call(*one, behind)


@pytest.mark.slow
@torch.no_grad()
def test_compiles_with_a_state():
    layer, qkv = build("sliding", 4, "relative_bias"), inputs(5)
    state = layer(*inputs(6))[1]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*qkv, state), layer(*qkv, state))


@everywhere
def test_shapes_without_memory(window):
    layer = build(window, 11 if window == "full" else 4, "alibi").to("meta")
    qkv = [x.to("meta") for x in inputs(11)]
    assert layer(*qkv, layer.init_state(2))[0].shape == (2, 11, HEADS, V)


@everywhere
def test_later_tokens_move_nothing(window):
    layer, qkv = build(window, 9 if window == "full" else 4, "rope"), inputs(9)
    before = layer(*qkv)[0]
    for t in (0, 3, 5, 8):
        pulse = 5 * (torch.arange(9) == t).double()[None, :, None, None]
        after = layer(*(x + pulse for x in qkv))[0]
        reached = [s for s in range(9) if not torch.equal(after[:, s], before[:, s])]
        assert reached == [s for s in range(9) if sees(window, layer.window_size, s, t)]


@pytest.mark.parametrize("position", ["none", "alibi"])
def test_large_scores_stay_finite(position):
    layer, qkv = build("sliding", 4, position), [50 * x.detach().float() for x in inputs(11)]
    leaves = [x.requires_grad_() for x in qkv]
    y, _ = layer.float()(*leaves)
    assert all(g.isfinite().all() for g in (y, *torch.autograd.grad(y.sum(), leaves)))


def test_dropout_only_in_training():
    layer, qkv = build("chunk", 4, dropout=0.5), inputs(9)
    assert not torch.equal(layer(*qkv)[0], layer(*qkv)[0])
    layer.eval()
    assert torch.equal(layer(*qkv)[0], layer(*qkv)[0])


def test_a_scale_of_its_own():
    layer, (q, k, v) = build("full", 8), inputs(5)
    assert math.isclose(layer.shape.scale, SCALE)
    layer.shape = replace(layer.shape, scale=SCALE / 2)
    torch.testing.assert_close(layer(q * 2, k, v)[0], build("full", 8)(q, k, v)[0])
