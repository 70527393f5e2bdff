"""Latent attention as a loop over time and heads, in float64."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients, in_pieces

from archlab import ArchlabError
from archlab.config.spec import parse

D, H, N, P, R, V, WINDOW = 15, 3, 5, 4, 7, 6, 4
SIZES = {"num_heads": H, "head_dim": N, "position_dim": P, "latent_dim": R, "value_head_dim": V}
everywhere = pytest.mark.parametrize("window", ["full", "sliding", "chunk"])


def build(window, **knobs):
    torch.manual_seed(0)
    size = {"window": window, "window_size": 11 if window == "full" else WINDOW}
    mixer = parse({"type": "mla", **SIZES, **size, **knobs}, "mixer", "mixer").factory()(D).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def inputs(num_tokens=9):
    return torch.randn(2, num_tokens, D, dtype=torch.float64, requires_grad=True)


def sees(window, t, s):
    return s <= t and {"full": True, "sliding": t - s < WINDOW, "chunk": s // WINDOW == t // WINDOW}[window]


def plain(mixer, window, x):
    """One token and head after the other, each with a key and a value of its own."""
    query = x if mixer.query_down is None else mixer.query_norm(mixer.query_down(x))
    q, latent, place = mixer.query_up(query), mixer.latent_norm(mixer.latent_down(x)), mixer.place_down(x)
    up, inner, outputs = mixer.attention.up(latent), mixer.attention.position.inner, []
    for t in range(x.shape[1]):
        seen, heads = [s for s in range(x.shape[1]) if sees(window, t, s)], []
        for h in range(H):
            own, key_value = q[:, t, h * (N + P) :][:, : N + P], up[..., h * (N + V) :][..., : N + V]
            scores = []
            for s in seen:
                turned = [inner.rotate(part[:, None, None], torch.tensor([[step]]))[:, 0, 0]
                          for part, step in ((own[:, N:], t), (place[:, s], s))]  # fmt: skip
                bias = inner.bias(torch.tensor([[t]]), torch.tensor([[s]]))
                score = (own[:, :N] * key_value[:, s, :N]).sum(-1) + (turned[0] * turned[1]).sum(-1)
                scores.append(score * (N + P) ** -0.5 + (0 if bias is None else bias[0, h, 0, 0]))
            weights = torch.stack(scores, -1).softmax(-1)
            heads.append((weights[..., None] * key_value[:, seen, N:]).sum(1))
        outputs.append(mixer.out(torch.cat(heads, -1)))
    return torch.stack(outputs, 1)


@everywhere
@pytest.mark.parametrize("knobs", [{}, {"query_latent_dim": 8, "bias": True}, {"position": "alibi"}], ids=str)
def test_agrees_with_a_loop_in_one_call_and_token_by_token(window, knobs):
    mixer, x = build(window, **knobs), inputs()
    expected = plain(mixer, window, x)
    ours = [mixer(x)[0], in_pieces(mixer, (x,), [1] * 9)[0], in_pieces(mixer, (x,), [2, 6, 1])[0]]
    assert_same_gradients(torch.stack(ours), torch.stack([expected] * 3), [x, *mixer.parameters()])


@everywhere
def test_streams(window):
    assert_one_stream(build(window), inputs(11).detach())


@pytest.mark.parametrize("position", ["rope", "relative_bias"])
def test_the_state_holds_one_latent_and_one_place_of_a_token(position):
    state = build("sliding", position=position)(inputs())[1]
    assert {name: tuple(x.shape) for name, x in state.items()} == {
        "attention.position": (2,),
        "attention.keys": (2, WINDOW, 1, P),
        "attention.values": (2, WINDOW, 1, R),
    }


def test_dropout_only_in_training():
    mixer, x = build("full", dropout=0.5), inputs()
    assert not torch.equal(mixer(x)[0], mixer(x)[0])
    mixer.eval()
    assert torch.equal(mixer(x)[0], mixer(x)[0])


def test_heads_have_to_divide_the_width():
    with pytest.raises(ArchlabError, match="dim 15 is not divisible by num_heads 4"):
        build("full", num_heads=4, head_dim=None)
