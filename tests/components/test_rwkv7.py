import pytest
import torch
from streams import assert_one_stream, assert_same_gradients
from test_rwkv4 import DIM, TOKENS, inputs, moved
from test_rwkv6 import normalized, past

from archlab.components.ffn.rwkv7 import RWKV7ChannelMix
from archlab.components.mixer.rwkv7 import RWKV7TimeMix


def build(**knobs):
    ranks = {"decay_rank": 2, "rate_rank": 3, "gate_rank": 4}
    return moved(RWKV7TimeMix(DIM, **({"head_dim": 3} | ranks | knobs)))


def time_mix(mixer, x, head_dim, eps):
    """Goose's equations one token after the other: S = S (diag(w) - kᵀ (a * k)) + vᵀ k, read by r."""
    B, H = len(x), DIM // head_dim
    state, outputs = torch.zeros(B, H, head_dim, head_dim, dtype=x.dtype), []
    for t in range(TOKENS):
        now, step = x[:, t], past(x, t) - x[:, t]
        for_r, for_k, for_v, for_g, for_w, for_a = (now + step * mix for mix in mixer.mixes)
        r, k, v = for_r @ mixer.receptance.weight.T, for_k @ mixer.key.weight.T, for_v @ mixer.value.weight.T
        d = torch.tanh(for_w @ mixer.decay.down.weight.T) @ mixer.decay.up.weight.T + mixer.decay.up.bias
        w = torch.exp(-(torch.tensor(-0.5).double().exp()) * torch.sigmoid(d))
        a = torch.sigmoid(for_a @ mixer.rate.down.weight.T @ mixer.rate.up.weight.T + mixer.rate.up.bias)
        g = torch.sigmoid(for_g @ mixer.gate.down.weight.T) @ mixer.gate.up.weight.T
        kappa = (k * mixer.removal).unflatten(-1, (H, -1))
        kappa = kappa / kappa.square().sum(-1, keepdim=True).sqrt()
        k = k * (1 + (a - 1) * mixer.replacement)
        r, k, v, w, a = (y.unflatten(-1, (H, -1)) for y in (r, k, v, w, a))
        moves = torch.diag_embed(w) - kappa[..., :, None] * (a * kappa)[..., None, :]
        state = state @ moves + v[..., :, None] * k[..., None, :]
        y = normalized(mixer, (state @ r[..., None])[..., 0], eps)
        y = y + ((r * k * mixer.bonus).sum(-1, keepdim=True) * v).flatten(1)
        outputs.append((y * g) @ mixer.out.weight.T)
    return torch.stack(outputs, 1)


def channel_mix(ffn, x):
    steps = (x[:, t] + (past(x, t) - x[:, t]) * ffn.key_mix for t in range(TOKENS))
    return torch.stack([(y @ ffn.key.weight.T).clamp_min(0).square() @ ffn.out.weight.T for y in steps], 1)


@pytest.mark.parametrize(("head_dim", "eps"), [(3, 64e-5), (2, 0.1), (6, 64e-5)])
def test_time_mix_agrees_with_the_equations(head_dim, eps):
    mixer, x = build(head_dim=head_dim, eps=eps), inputs()
    assert_same_gradients(mixer(x)[0], time_mix(mixer, x, head_dim, eps), [x, *mixer.parameters()])


def test_channel_mix_agrees_with_the_equations():
    ffn, x = moved(RWKV7ChannelMix(DIM, hidden_dim=7)), inputs()
    assert_same_gradients(ffn(x)[0], channel_mix(ffn, x), [x, *ffn.parameters()])


@pytest.mark.parametrize("layer", [build(), moved(RWKV7ChannelMix(DIM))], ids=["mixer", "ffn"])
def test_streams(layer):
    assert_one_stream(layer, inputs())


@pytest.mark.parametrize(
    ("dim", "ranks"), [(768, (64, 64, 128)), (2048, (96, 96, 256)), (2560, (96, 96, 320)), (64, (32, 32, 32))]
)
def test_ranks_unless_said_otherwise_are_the_published_ones(dim, ranks):
    with torch.device("meta"):
        mixer = RWKV7TimeMix(dim)
    assert tuple(part.down.out_features for part in (mixer.decay, mixer.rate, mixer.gate)) == ranks


def test_refuses_heads_that_do_not_fill_the_width():
    with pytest.raises(ValueError, match="dim 6 is not divisible by head_dim 4"):
        RWKV7TimeMix(6, head_dim=4)
