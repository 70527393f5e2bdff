"""The values of the first layer in those of later ones, as a loop over layers, heads and tokens, in float64."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients, in_pieces

from archlab.config.spec import parse
from archlab.errors import ConfigError
from archlab.modeling.activation_checkpointing import apply_activation_checkpointing
from archlab.modeling.build import build as build_spec
from archlab.modeling.compile import compile_model
from archlab.testing.component_case import ComponentCase
from archlab.testing.transfer import transfers

VOCAB, DIM, TOKENS = 11, 12, 7
ATTENTION = {
    "type": "attention",
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 6,
    "position": "none",
    "attention": {"type": "softmax", "window": "sliding", "window_size": 4},
    "value_residual": True,
}
RWKV = {"type": "rwkv7", "head_dim": 3, "decay_rank": 2, "rate_rank": 3, "gate_rank": 4}
RWKV |= {"value_residual": True, "value_rank": 5}
OTHER = {"type": "hgrn2", "num_heads": 2}
MIXERS = {"attention": ATTENTION, "rwkv7": RWKV}
every_mixer = pytest.mark.parametrize("name", MIXERS)


def build(*mixers, backbone="stack", **knobs):
    layers = [{"mixer": mixer, "ffn": {"type": "mlp", "hidden_dim": 10}} | knobs for mixer in mixers]
    sizes = {"type": backbone, "vocab_size": VOCAB, "dim": DIM, "layers": layers}
    if backbone == "megabyte":
        sizes |= {"local_dim": 6, "patch_size": 3, "local_layers": layers[:2]}
    model = build_spec(parse(sizes, "backbone", "model"), "cpu", 0).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, dtype=torch.float64)
    return model


def tokens(num_tokens=TOKENS):
    return torch.randint(VOCAB, (2, num_tokens), generator=torch.Generator().manual_seed(1))


def attention_by_loops(mixer, x, v):
    """Softmax over the last four tokens, with the values that are given."""
    q, k = (part(x).unflatten(-1, (-1, 6)) for part in (mixer.query, mixer.key))
    v, rows = v.unflatten(-1, (-1, 6)), []
    for t in range(x.shape[1]):
        seen, heads = range(max(0, t - 3), t + 1), []
        for h in range(4):
            weights = [((q[:, t, h] * k[:, s, h // 2]).sum(-1, keepdim=True) / 6**0.5).exp() for s in seen]
            heads.append(sum(w * v[:, s, h // 2] for w, s in zip(weights, seen, strict=True)) / sum(weights))
        rows.append(torch.cat(heads, -1))
    return mixer.out(torch.stack(rows, 1))


def rwkv_by_loops(mixer, shifted, x, v):
    """The recurrence of RWKV-7 one token after the other, with the values that are given."""
    B, T, _ = x.shape
    H, N = DIM // 3, 3
    state, rows = torch.zeros(B, H, N, N, dtype=x.dtype), []
    for t in range(T):
        for_r, for_k, for_g, for_w, for_a = (x[:, t] + shifted[:, t] * mixer.mixes[i] for i in (0, 1, 3, 4, 5))
        r, k = mixer.receptance(for_r), mixer.key(for_k)
        decay = torch.tanh(for_w @ mixer.decay.down.weight.T) @ mixer.decay.up.weight.T + mixer.decay.up.bias
        w = torch.exp(-(torch.tensor(-0.5).double().exp()) * decay.sigmoid())
        a = (for_a @ mixer.rate.down.weight.T @ mixer.rate.up.weight.T + mixer.rate.up.bias).sigmoid()
        g = (for_g @ mixer.gate.down.weight.T).sigmoid() @ mixer.gate.up.weight.T
        kappa = (k * mixer.removal).view(B, H, N)
        kappa = kappa / kappa.norm(dim=-1, keepdim=True)
        k = k * (1 + (a - 1) * mixer.replacement)
        r, k, w, a, own = (part.view(B, H, N) for part in (r, k, w, a, v[:, t]))
        removed = torch.einsum("bhvk,bhk->bhv", state, kappa)
        state = state * w[:, :, None] - torch.einsum("bhv,bhk->bhvk", removed, a * kappa)
        state = state + torch.einsum("bhv,bhk->bhvk", own, k)
        y = torch.einsum("bhvk,bhk->bhv", state, r)
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 64e-5).sqrt()
        y = y.flatten(1) * (1 + mixer.norm.weight) + mixer.norm.bias
        y = y + ((r * k * mixer.bonus).sum(-1, keepdim=True) * own).flatten(1)
        rows.append((y * g) @ mixer.out.weight.T)
    return torch.stack(rows, 1)


def mixed_by_loops(mixer, h, first):
    """Return a mixer's output, and its values before and after those of the first layer are in them."""
    weights = dict(mixer.named_parameters())
    if "mixes" in weights:
        shifted = torch.cat((torch.zeros_like(h[:, :1]), h[:, :-1]), 1) - h
        for_v = h + shifted * mixer.mixes[2]
        v = mixer.value(for_v)
        if first is not None:
            down, up, bias = (weights[f"value_residual.mix.gate.{n}"] for n in ("down.weight", "up.weight", "up.bias"))
            gate = 1 / (1 + (-(for_v @ down.T @ up.T + bias)).exp())
            v = (1 - gate) * v + gate * first
        return rwkv_by_loops(mixer, shifted, h, v), v
    v = mixer.value(h)
    if first is not None:
        own, other = weights["value_residual.mix.weights"]
        v = own * v + other * first
    return attention_by_loops(mixer, h, v), v


def model_by_loops(model, ids):
    """A whole pre-norm model; layers without a value residual, which hgrn2 has none of, run as they are."""
    x, first = model.embedding(ids), None
    for block in model.blocks:
        h = block.norm(x)
        if hasattr(block.mixer, "value_residual"):
            y, v = mixed_by_loops(block.mixer, h, first)
            first = v if first is None else first
        else:
            y, _ = block.mixer(h)
        x = x + y
        x = x + block.ffn(block.ffn_norm(x))
    return model.head(model.norm(x))


@every_mixer
def test_a_model_agrees_with_a_loop_over_its_layers(name):
    model = build(OTHER, MIXERS[name], MIXERS[name], OTHER, MIXERS[name])
    assert_same_gradients(model(tokens())[0], model_by_loops(model, tokens()), list(model.parameters()))


@pytest.mark.slow
def test_layers_of_two_kinds_share_values():
    for order in ((RWKV, ATTENTION, RWKV), (ATTENTION, RWKV, ATTENTION)):
        model = build(*order)
        assert_same_gradients(model(tokens())[0], model_by_loops(model, tokens()), list(model.parameters()))


@every_mixer
@pytest.mark.parametrize("kind", ["true", "selective"])
def test_recomputed_layers_have_the_same_gradients(name, kind):
    model = build(*[MIXERS[name]] * 3)
    expected = model(tokens())[0]
    recomputed = build(*[MIXERS[name]] * 3)
    recomputed.load_state_dict(model.state_dict())
    apply_activation_checkpointing(recomputed, True if kind == "true" else "selective")
    parameters = [list(each.parameters()) for each in (model, recomputed)]
    actual, weight = recomputed(tokens())[0], torch.randn_like(expected)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    ours, theirs = (
        torch.autograd.grad((y * weight).sum(), leaves)
        for y, leaves in ((actual, parameters[1]), (expected, parameters[0]))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
# torch's own, about the input of a block, which is not a leaf (torch 2.13).
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(("name", "policy"), [("attention", "model"), ("attention", "block"), ("rwkv7", "block")])
def test_compiles_without_a_break(name, policy):
    model = build(*[MIXERS[name]] * 3)
    expected = model(tokens())[0]
    torch.compiler.reset()
    compile_model(model, policy, backend="aot_eager")
    assert_same_gradients(model(tokens())[0], expected, list(model.parameters()))


@every_mixer
def test_streams(name):
    assert_one_stream(build(OTHER, *[MIXERS[name]] * 2), tokens(9))


@every_mixer
@pytest.mark.parametrize("residual", ["hyper", "post_norm", "parallel"])
def test_streams_under_any_residual(name, residual):
    model = build(*[MIXERS[name]] * 2, residual=residual, output_norm="rms")
    whole = model(tokens(9))[0]
    torch.testing.assert_close(in_pieces(model, (tokens(9),), [1, 4, 3, 1])[0], whole, rtol=1e-10, atol=1e-10)


@every_mixer
def test_the_layers_of_patches_and_of_bytes_share_values_of_their_own(name):
    model = build(*[MIXERS[name] | {"head_dim": 3}] * 3, backbone="megabyte")
    mixing = [key for key, _ in model.named_parameters() if "value_residual" in key]
    assert {key.partition(".mixer")[0] for key in mixing} == {
        "global_layers.blocks.1",
        "global_layers.blocks.2",
        "local_layers.blocks.1",
    }
    whole = model(tokens(10))[0]
    torch.testing.assert_close(in_pieces(model, (tokens(10),), [1, 4, 3, 2])[0], whole, rtol=1e-10, atol=1e-10)
    whole.sum().backward()
    assert all(parameter.grad.any() for key, parameter in model.named_parameters() if "value_residual" in key)


@every_mixer
def test_one_such_layer_alone_is_as_it_was(name):
    with_residual, without = MIXERS[name], MIXERS[name] | {"value_residual": False}
    model, plain = build(OTHER, with_residual), build(OTHER, without)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens())[0], plain(tokens())[0])


@every_mixer
def test_the_first_layer_has_no_parameters_for_it(name):
    model = build(*[MIXERS[name]] * 3)
    assert {key.split(".")[1] for key, _ in model.named_parameters() if "value_residual" in key} == {"1", "2"}


def test_begins_with_the_mean_and_nearer_to_the_first():
    layers = {name: [{"mixer": mixer, "ffn": "mlp"}] * 2 for name, mixer in MIXERS.items()}
    mixes = {}
    for name, each in layers.items():
        spec = parse({"type": "stack", "vocab_size": VOCAB, "dim": DIM, "layers": each}, "backbone", "model")
        mixes[name] = build_spec(spec, "cpu", 0).blocks[1].mixer.value_residual.mix
    v, first = torch.randn(2, 3, 12), torch.randn(2, 3, 12)
    torch.testing.assert_close(mixes["attention"](v, first, v), (v + first) / 2)
    share = torch.tensor(1.0).sigmoid()
    torch.testing.assert_close(mixes["rwkv7"](v, first, torch.randn(2, 3, DIM)), (1 - share) * v + share * first)


def test_values_of_several_widths_are_refused():
    with pytest.raises(ConfigError, match="values of 12 features and of 24 features cannot be mixed"):
        build(ATTENTION, ATTENTION | {"num_kv_heads": 4})


@pytest.mark.slow
@every_mixer
def test_learning_rates_transfer(name):
    kind = {"attention": {"attention": ATTENTION["attention"], "value_residual": True}, "rwkv7": RWKV | {"head_dim": 8}}
    knobs = {key: value for key, value in kind[name].items() if key != "type"}
    transfers(ComponentCase("mixer", name, knobs))
