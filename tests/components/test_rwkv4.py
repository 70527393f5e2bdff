import pytest
import torch
from streams import assert_one_stream, assert_same_gradients, in_pieces

from archlab.components._token_shift import TokenShift
from archlab.components.ffn.rwkv4 import RWKV4ChannelMix
from archlab.components.mixer.rwkv4 import RWKV4TimeMix
from archlab.config.spec import parse
from archlab.modeling.build import build

DIM, TOKENS = 6, 21


def moved(layer):
    """Return the layer in float64, every parameter moved."""
    generator = torch.Generator().manual_seed(1)
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.3)
    return layer


def inputs():
    torch.manual_seed(0)
    return torch.randn(2, TOKENS, DIM, dtype=torch.float64, requires_grad=True)


def mixed(x, t, mix):
    past = x[:, t - 1] if t else torch.zeros_like(x[:, 0])
    return mix * x[:, t] + (1 - mix) * past


def time_mix(mixer, x):
    """Equations 11 to 13, 16 and 17, sums and all, one token after the other."""
    num, den, outputs = 0, 0, []
    w, u = mixer.decay.exp(), mixer.bonus
    for t in range(TOKENS):
        r = mixed(x, t, mixer.receptance_mix) @ mixer.receptance.weight.T
        k = mixed(x, t, mixer.key_mix) @ mixer.key.weight.T
        v = mixed(x, t, mixer.value_mix) @ mixer.value.weight.T
        wkv = (num + torch.exp(u + k) * v) / (den + torch.exp(u + k))
        num, den = torch.exp(-w) * num + torch.exp(k) * v, torch.exp(-w) * den + torch.exp(k)
        outputs.append((torch.sigmoid(r) * wkv) @ mixer.out.weight.T)
    return torch.stack(outputs, 1)


def channel_mix(ffn, x):
    """Equations 14, 15 and 18."""
    outputs = []
    for t in range(TOKENS):
        r = mixed(x, t, ffn.receptance_mix) @ ffn.receptance.weight.T
        k = mixed(x, t, ffn.key_mix) @ ffn.key.weight.T
        outputs.append(torch.sigmoid(r) * (k.clamp_min(0).square() @ ffn.out.weight.T))
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("hidden_dim", [None, 5, 9])
def test_time_mix_agrees_with_the_equations(hidden_dim):
    mixer, x = moved(RWKV4TimeMix(DIM, hidden_dim=hidden_dim)), inputs()
    assert_same_gradients(mixer(x)[0], time_mix(mixer, x), [x, *mixer.parameters()])


@pytest.mark.parametrize("hidden_dim", [None, 7])
def test_channel_mix_agrees_with_the_equations(hidden_dim):
    ffn, x = moved(RWKV4ChannelMix(DIM, hidden_dim=hidden_dim)), inputs()
    assert_same_gradients(ffn(x)[0], channel_mix(ffn, x), [x, *ffn.parameters()])


@pytest.mark.parametrize("kind", [RWKV4TimeMix, RWKV4ChannelMix, TokenShift])
def test_streams(kind):
    assert_one_stream(moved(kind(DIM)), inputs())


def test_sums_stay_in_float32_where_parameters_are_halves():
    y, state = RWKV4TimeMix(DIM).bfloat16()(torch.randn(2, TOKENS, DIM).bfloat16())
    assert y.dtype == state["shift.last"].dtype == torch.bfloat16
    assert {state[name].dtype for name in ("num", "den", "peak")} == {torch.float32}


def test_widths_unless_said_otherwise():
    assert RWKV4TimeMix(DIM).key.out_features == DIM
    assert RWKV4ChannelMix(DIM).key.out_features == 4 * DIM


def test_begins_between_the_past_and_the_present_fading_ever_faster():
    mixer = RWKV4TimeMix(64)
    assert (mixer.decay.diff() > 0).all()
    assert (mixer.key_mix[0], mixer.decay[0]) == (0, -5)


@torch.no_grad()
@pytest.mark.parametrize("norm", [{"type": "layer"}, {"type": "timestep", "num_groups": 2}], ids=["layer", "timestep"])
def test_a_norm_behind_the_embedding_is_applied_and_streamed(norm):
    layers = [{"mixer": "rwkv4", "ffn": "rwkv4"}]
    tree = {"type": "stack", "vocab_size": 11, "dim": DIM, "layers": layers, "embedding_norm": norm}
    stack, tokens = moved(build(parse(tree, "backbone", "model"))), torch.arange(TOKENS)[None] % 11
    (whole, last), (cut, state) = stack(tokens), in_pieces(stack, (tokens,), [4, 1, TOKENS - 5])
    torch.testing.assert_close((cut, state), (whole, last), rtol=1e-10, atol=1e-10)
    without, _ = moved(build(parse(tree | {"embedding_norm": "none"}, "backbone", "model")))(tokens)
    assert not torch.isclose(without, whole).any(-1).all()
