"""Differential attention as a loop over time and heads, in float64."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab import ArchlabError
from archlab.config.spec import parse

D, H, G, K, WINDOW = 15, 6, 3, 4, 4


def build(**knobs):
    torch.manual_seed(0)
    sizes = {"num_heads": H, "num_kv_heads": G, "head_dim": K, "init_lambda": 0.3}
    mixer = parse({"type": "differential", **sizes, **knobs}, "mixer", "mixer").factory()(D).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def inputs(num_tokens=9):
    return torch.randn(2, num_tokens, D, dtype=torch.float64, requires_grad=True)


def plain(mixer, x, sees):
    """One token and head after the other, with both softmaxes written out."""
    q, k, v = (part(x) for part in (mixer.query, mixer.key, mixer.value))
    position, share, outputs = mixer.attention.position, H // G, []
    turn = lambda part, t: position.rotate(part[:, None, None], torch.tensor([[t]]))[:, 0, 0]  # noqa: E731
    own, theirs = mixer.lambda_query, mixer.lambda_key
    factor = (own[0] @ theirs[0]).exp() - (own[1] @ theirs[1]).exp() + mixer.init_lambda
    for t in range(x.shape[1]):
        seen, heads = [s for s in range(x.shape[1]) if sees(t, s)], []
        for h in range(H):
            g, j, maps = h // share, h % share, []
            for m in range(2):
                query = q[:, t].unflatten(-1, (G, 2, share, K))[:, g, m, j]
                keys = [k[:, s].unflatten(-1, (G, 2, K))[:, g, m] for s in seen]
                scores = [(turn(query, t) * turn(key, s)).sum(-1) * K**-0.5 for key, s in zip(keys, seen, strict=True)]
                maps.append(torch.stack(scores, -1).softmax(-1))
            weights = maps[0] - factor * maps[1]
            mixed = (weights[..., None] * v[:, seen, g * 2 * K : (g + 1) * 2 * K]).sum(1)
            heads.append(mixer.norm(mixed) * (1 - mixer.init_lambda))
        outputs.append(torch.cat(heads, -1))
    return mixer.out(torch.stack(outputs, 1))


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_agrees_with_a_loop(bias):
    mixer, x = build(bias=bias), inputs()
    want = plain(mixer, x, lambda t, s: s <= t)
    assert_same_gradients(mixer(x)[0], want, [x, *mixer.parameters()])


@pytest.mark.slow
def test_attends_through_a_window():
    attention = {"type": "softmax", "window": "sliding", "window_size": WINDOW}
    mixer, x = build(attention=attention, norm={"type": "rms", "affine": False}), inputs()
    want = plain(mixer, x, lambda t, s: 0 <= t - s < WINDOW)
    assert_same_gradients(mixer(x)[0], want, [x, *mixer.parameters()])


@pytest.mark.parametrize("window", ["full", "sliding", "chunk"])
def test_a_stream_in_pieces_is_one_sequence(window):
    size = 11 if window == "full" else WINDOW
    mixer = build(attention={"type": "softmax", "window": window, "window_size": size})
    assert_one_stream(mixer, inputs(11).detach())


def test_lambda_begins_near_what_is_said():
    torch.manual_seed(0)
    mixer = parse({"type": "differential", "num_heads": 2, "init_lambda": 0.2}, "mixer", "mixer").factory()(64)
    assert abs(mixer._lambda().item() - 0.2) < 0.2


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"head_dim": None, "num_heads": 2, "num_kv_heads": 2}, "dim 15 is not divisible by twice num_heads 2"),
        ({"num_kv_heads": 4}, "num_heads 6 is not divisible by num_kv_heads 4"),
        ({"norm": {"type": "timestep", "num_groups": 2}}, "has a state"),
    ],
)
def test_what_cannot_be_built(knobs, message):
    with pytest.raises((ArchlabError, ValueError), match=message):
        build(**knobs)
