import pytest
import torch
from streams import assert_one_stream, assert_same_gradients
from test_rwkv4 import DIM, TOKENS, inputs, moved

from archlab.components.ffn.rwkv6 import RWKV6ChannelMix
from archlab.components.mixer.rwkv6 import RWKV6TimeMix


def build(**knobs):
    return moved(RWKV6TimeMix(DIM, **({"head_dim": 3, "mix_rank": 2, "decay_rank": 4} | knobs)))


def past(x, t):
    return x[:, t - 1] if t else torch.zeros_like(x[:, 0])


def low_rank(part, x):
    """Return lambda + tanh(x A) B."""
    return part.up.bias + torch.tanh(x @ part.down.weight.T) @ part.up.weight.T


def normalized(mixer, y_BHN, eps):
    """Normalize each head separately."""
    centred = y_BHN - y_BHN.mean(-1, keepdim=True)
    y = (centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()).flatten(1)
    return y * (1 + mixer.norm.weight) + mixer.norm.bias


def time_mix(mixer, x, head_dim, eps):
    """Finch's equations one token after the other: data-dependent shifts and decays, a bonus for the current token."""
    state, outputs = 0, []
    for t in range(TOKENS):
        now, step = x[:, t], past(x, t) - x[:, t]
        shared = now + step * mixer.mix
        r, k, v, g, w = (now + step * low_rank(part, shared) for part in mixer.mixes)
        r, k, v, g = (
            y @ p.weight.T for y, p in ((r, mixer.receptance), (k, mixer.key), (v, mixer.value), (g, mixer.gate))
        )
        w = torch.exp(-torch.exp(low_rank(mixer.decay, w)))
        r, k, v, w = (y.unflatten(-1, (-1, head_dim)) for y in (r, k, v, w))
        new = k[..., None] * v[..., None, :]
        y = torch.einsum("bhk,bhkv->bhv", r, state + mixer.bonus[..., None] * new)
        state = w[..., None] * state + new
        outputs.append((normalized(mixer, y, eps) * g * torch.sigmoid(g)) @ mixer.out.weight.T)
    return torch.stack(outputs, 1)


def channel_mix(ffn, x):
    outputs = []
    for t in range(TOKENS):
        now, step = x[:, t], past(x, t) - x[:, t]
        k = ((now + step * ffn.key_mix) @ ffn.key.weight.T).clamp_min(0).square()
        r = (now + step * ffn.receptance_mix) @ ffn.receptance.weight.T
        outputs.append(torch.sigmoid(r) * (k @ ffn.out.weight.T))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize(("head_dim", "eps"), [(3, 64e-5), (2, 0.1), (6, 64e-5)])
def test_time_mix_agrees_with_the_equations(head_dim, eps):
    mixer, x = build(head_dim=head_dim, eps=eps), inputs()
    assert_same_gradients(mixer(x)[0], time_mix(mixer, x, head_dim, eps), [x, *mixer.parameters()])


def test_channel_mix_agrees_with_the_equations():
    ffn, x = moved(RWKV6ChannelMix(DIM, hidden_dim=7)), inputs()
    assert_same_gradients(ffn(x)[0], channel_mix(ffn, x), [x, *ffn.parameters()])


@pytest.mark.parametrize("layer", [build(), moved(RWKV6ChannelMix(DIM))], ids=["mixer", "ffn"])
def test_streams(layer):
    assert_one_stream(layer, inputs())


@pytest.mark.parametrize(("dim", "hidden_dim"), [(2048, 7168), (768, 2688), (6, 32)])
def test_width_unless_said_otherwise(dim, hidden_dim):
    with torch.device("meta"):
        assert RWKV6ChannelMix(dim).key.out_features == hidden_dim


def test_refuses_heads_that_do_not_fill_the_width():
    with pytest.raises(ValueError, match="dim 6 is not divisible by head_dim 4"):
        RWKV6TimeMix(6, head_dim=4)
