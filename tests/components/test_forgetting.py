"""Attention with forget gates as a loop over time and heads, in float64."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients, in_pieces

from archlab import ArchlabError
from archlab.config.spec import parse

D, H, G, K, WINDOW = 15, 6, 3, 4, 4
everywhere = pytest.mark.parametrize("window", ["full", "sliding", "chunk"])


def build(window="full", **knobs):
    torch.manual_seed(0)
    size = {"window": window, "window_size": 11 if window == "full" else WINDOW}
    sizes = {"num_heads": H, "num_kv_heads": G, "head_dim": K}
    mixer = parse({"type": "forgetting", **sizes, **size, **knobs}, "mixer", "mixer").factory()(D).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def inputs(num_tokens=9):
    return torch.randn(2, num_tokens, D, dtype=torch.float64, requires_grad=True)


def sees(window, t, s):
    return s <= t and {"full": True, "sliding": t - s < WINDOW, "chunk": s // WINDOW == t // WINDOW}[window]


def plain(mixer, window, x):
    """One token and head after the other: each gate between the key and the query multiplies the weight."""
    q, k, v, f = mixer.query(x), mixer.key(x), mixer.value(x), mixer.forget(x).sigmoid()
    position, outputs = mixer.attention.position, []
    turn = lambda part, t: position.rotate(part[:, None, None], torch.tensor([[t]]))[:, 0, 0]  # noqa: E731
    for t in range(x.shape[1]):
        seen, heads = [s for s in range(x.shape[1]) if sees(window, t, s)], []
        for h in range(H):
            g = h * G // H
            own, weights = mixer.query_norm(q[:, t, h * K : (h + 1) * K]), []
            for s in seen:
                key = mixer.key_norm(k[:, s, g * K : (g + 1) * K])
                bias = position.bias(torch.tensor([[t]]), torch.tensor([[s]]))
                score = (turn(own, t) * turn(key, s)).sum(-1) * K**-0.5 + (0 if bias is None else bias[0, h, 0, 0])
                weights.append(score.exp() * f[:, s + 1 : t + 1, h].prod(-1))
            shares = torch.stack(weights, -1) / sum(weights)[:, None]
            heads.append((shares[..., None] * v[:, seen, g * K : (g + 1) * K]).sum(1))
        outputs.append(torch.cat(heads, -1))
    y = torch.stack(outputs, 1)
    if mixer.gate is not None:
        y = y * mixer.gate(x).sigmoid().repeat_interleave(H * K // mixer.gate.out_features, -1)
    return mixer.out(y)


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"position": "rope", "qk_norm": "rms", "output_gate": "feature"},
        {"position": "alibi", "output_gate": "head"},
    ],
    ids=str,
)
def test_agrees_with_a_loop_in_one_call_and_token_by_token(window, knobs):
    mixer, x = build(window, **knobs), inputs()
    expected = plain(mixer, window, x)
    ours = [mixer(x)[0], in_pieces(mixer, (x,), [1] * 9)[0], in_pieces(mixer, (x,), [2, 6, 1])[0]]
    assert_same_gradients(torch.stack(ours), torch.stack([expected] * 3), [x, *mixer.parameters()])


@everywhere
def test_streams(window):
    assert_one_stream(build(window), inputs(11).detach())


@everywhere
def test_gates_that_are_open_forget_nothing(window):
    mixer, x = build(window), inputs()
    torch.nn.init.zeros_(mixer.forget.weight)
    torch.nn.init.constant_(mixer.forget.bias, 60.0)
    size = {"window": window, "window_size": mixer.attention.window_size}
    sizes = {"num_heads": H, "num_kv_heads": G, "head_dim": K, "position": "none"}
    spec = {"type": "attention", **sizes, "attention": {"type": "softmax", **size}}
    without = parse(spec, "mixer", "mixer").factory()(D).double()
    without.load_state_dict({name: x for name, x in mixer.state_dict().items() if not name.startswith("forget.")})
    torch.testing.assert_close(mixer(x)[0], without(x)[0], rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_long_stream_adds_up_no_error():
    mixer, x = build("sliding").float(), torch.randn(1, 4000, D)
    _, state = mixer(x[:, :-3])
    fresh, _ = mixer(x[:, -3 - WINDOW :])
    for y in (in_pieces_from(mixer, x[:, -3:], state), mixer(x)[0][:, -3:]):
        torch.testing.assert_close(y, fresh[:, -3:], rtol=2e-6, atol=2e-6)


def in_pieces_from(mixer, x, state):
    outputs = []
    for token in x.split(1, dim=1):
        y, state = mixer(token, state)
        outputs.append(y)
    return torch.cat(outputs, 1)


@torch.no_grad()
def test_log_gates_stay_in_float32_where_the_rest_is_bfloat16():
    mixer = build("full").bfloat16()
    _, state = mixer(torch.randn(2, 5, D).bfloat16())
    assert {name: x.dtype for name, x in state.items() if x.is_floating_point()} == {
        "attention.keys": torch.bfloat16,
        "attention.values": torch.bfloat16,
        "attention.log_gates": torch.float32,
    }
    assert {name: x.dtype for name, x in mixer.init_state(2).items()} == {name: x.dtype for name, x in state.items()}


def test_dropout_only_in_training():
    mixer, x = build(dropout=0.5), inputs()
    assert not torch.equal(mixer(x)[0], mixer(x)[0])
    mixer.eval()
    assert torch.equal(mixer(x)[0], mixer(x)[0])


def test_heads_have_to_divide_the_width():
    with pytest.raises(ArchlabError, match="dim 15 is not divisible by num_heads 6"):
        build(head_dim=None)
