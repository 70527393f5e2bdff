"""Keys and values of earlier layers, as a loop over layers, heads and tokens in float64, and as Gemma 3n has them."""

import pytest
import torch
from float64_helpers import Wide
from streams import assert_one_stream, assert_recomputing_changes_nothing, assert_same_gradients, in_pieces
from torch import nn

from archlab.config.experiment import load
from archlab.config.spec import parse
from archlab.errors import ConfigError
from archlab.modeling.build import build as build_spec
from archlab.modeling.compile import compile_model
from archlab.modeling.cost import estimate_cost
from archlab.testing.component_case import ComponentCase
from archlab.testing.transfer import transfers

VOCAB, DIM, TOKENS, WINDOW = 11, 12, 11, 4
WINDOWS = {"full": TOKENS + 1, "sliding": WINDOW, "chunk": WINDOW}
every_window = pytest.mark.parametrize("window", WINDOWS)


def attention(window="sliding", share=False, **knobs):
    softmax = {"type": "softmax", "window": window, "window_size": WINDOWS[window]}
    mixer = {"type": "attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "share_kv": share}
    return mixer | {"attention": softmax, "qk_norm": "rms", "wide_qk_norm": "rms"} | knobs


OTHER = {"type": "hgrn2", "num_heads": 2}


def build(*mixers, backbone="stack", **knobs):
    layers = [{"mixer": mixer, "ffn": {"type": "mlp", "hidden_dim": 10}} for mixer in mixers]
    sizes = {"type": backbone, "vocab_size": VOCAB, "dim": DIM, "layers": layers} | knobs
    if backbone == "megabyte":
        sizes |= {"local_dim": 6, "patch_size": 3, "local_layers": layers[:2]}
    model = build_spec(parse(sizes, "backbone", "model"), "cpu", 0).double().eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return model


def tokens(num_tokens=TOKENS):
    return torch.randint(VOCAB, (2, num_tokens), generator=torch.Generator().manual_seed(1))


def rotated(x_BTHK, window):
    """Pairs of features as complex numbers, turned by their positions; those of a chunk count from its start."""
    T, K = x_BTHK.shape[1], x_BTHK.shape[-1]
    places = [t % WINDOW if window == "chunk" else t for t in range(T)]
    angles = torch.tensor([[t * 10000 ** (-2 * i / K) for i in range(K // 2)] for t in places], dtype=torch.float64)
    z = torch.view_as_complex(x_BTHK.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(angles * 0 + 1, angles)[:, None]
    return torch.view_as_real(z).flatten(-2)


def mixed_by_loops(mixer, x, window, kv):
    """Return the output of a mixer, and its keys and values, which are those that are given if there are any."""
    q = rotated(mixer.query_norm(mixer.wide_query_norm(mixer.query(x)).unflatten(-1, (-1, 6))), window)
    if kv is None:
        k = mixer.key_norm(mixer.wide_key_norm(mixer.key(x)).unflatten(-1, (-1, 6)))
        kv = rotated(k, window), mixer.value(x).unflatten(-1, (-1, 6))
    (k, v), rows = kv, []
    for t in range(x.shape[1]):
        first = {"full": 0, "sliding": max(0, t - WINDOW + 1), "chunk": t // WINDOW * WINDOW}[window]
        heads = []
        for h in range(4):
            weights = [
                ((q[:, t, h] * k[:, s, h // 2]).sum(-1, keepdim=True) / 6**0.5).exp() for s in range(first, t + 1)
            ]
            values = [v[:, s, h // 2] for s in range(first, t + 1)]
            heads.append(sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights))
        rows.append(torch.cat(heads, -1))
    return mixer.out(torch.stack(rows, 1)), kv


def model_by_loops(model, ids, sources, windows):
    """A pre-norm model; `sources` are the layers whose keys and values each layer uses."""
    x, entries = model.embedding(ids), {}
    for index, block in enumerate(model.blocks):
        h = block.norm(x)
        if windows[index] is None:
            y, _ = block.mixer(h)
        else:
            y, entries[index] = mixed_by_loops(block.mixer, h, windows[index], entries.get(sources[index]))
        x = x + y
        x = x + block.ffn(block.ffn_norm(x))
    return model.head(model.norm(x))


@pytest.mark.slow
@every_window
def test_a_model_agrees_with_a_loop_over_its_layers(window):
    own, share = attention(window), attention(window, share=True)
    model = build(OTHER, own, share, own, OTHER, share, share)
    expected = model_by_loops(
        model, tokens(), [None, None, 1, None, None, 3, 3], [None, *[window] * 3, None, window, window]
    )
    assert_same_gradients(model(tokens())[0], expected, list(model.parameters()))


def test_each_layer_takes_from_the_nearest_one_of_its_kind():
    mixers = [attention("sliding"), attention("full"), attention("sliding", share=True), attention("full", share=True)]
    model = build(*mixers)
    expected = model_by_loops(model, tokens(), [None, None, 0, 1], ["sliding", "full", "sliding", "full"])
    torch.testing.assert_close(model(tokens())[0], expected, rtol=1e-10, atol=1e-10)


def test_the_first_of_a_kind_keeps_its_own():
    kinds = {
        "window": attention("full", share=True),
        "rotation": attention(share=True, position={"type": "rope", "base": 500.0}),
        "position": attention(share=True, position="none"),
        "heads": attention(share=True, num_kv_heads=4),
        "head_dim": attention(share=True, head_dim=4),
    }
    for name, other in kinds.items():
        assert build(attention(), other).kv_sources == [None, None], name
    assert build(*[attention(share=True)] * 3).kv_sources == [None, 0, 0]


@pytest.mark.slow
@every_window
@pytest.mark.parametrize("function", ["softmax", "stick_breaking", "laplace"])
def test_streams_with_the_state_of_the_layers_that_have_their_own(window, function):
    scores = {"type": function, "window": window, "window_size": WINDOWS[window]}
    own, share = (attention(window, share=each, attention=scores) for each in (False, True))
    model = build(own, share, OTHER, own, share)
    assert_one_stream(model, tokens())
    whole = model(tokens())[0]
    torch.testing.assert_close(in_pieces(model, (tokens(),), [1, 6, 3, 1])[0], whole, rtol=1e-10, atol=1e-10)
    assert {key.split(".")[1] for key in model.init_state(2) if key.startswith("blocks.")} == {"0", "2", "3"}


def test_a_layer_without_keys_and_values_has_no_parameters_for_them():
    model = build(attention(), attention(share=True))
    own, sharing = ({name for name, _ in block.mixer.named_parameters()} for block in model.blocks)
    assert own - sharing == {"key.weight", "value.weight", "key_norm.weight", "wide_key_norm.weight"}
    assert sharing < own


@pytest.mark.slow
def test_layers_in_loops_take_those_of_the_same_loop():
    model = build(attention(), attention(share=True), loops=3)
    deep = build(*[attention(), attention(share=True)] * 3)
    for index, block in enumerate(deep.blocks):
        block.load_state_dict(model.blocks[index % 2].state_dict())
    for name in ("embedding", "norm", "head"):
        getattr(deep, name).load_state_dict(getattr(model, name).state_dict())
    assert torch.equal(model(tokens())[0], deep(tokens())[0])
    assert_one_stream(model, tokens())


def test_the_layers_of_patches_and_of_bytes_share_their_own():
    model = build(attention("full"), attention("full", share=True), backbone="megabyte")
    whole = model(tokens(10))[0]
    torch.testing.assert_close(in_pieces(model, (tokens(10),), [1, 4, 3, 2])[0], whole, rtol=1e-10, atol=1e-10)
    whole.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kind", [True, "selective"])
def test_recomputed_layers_have_the_same_gradients(kind):
    layers = [attention(value_residual=True), attention(share=True), attention(value_residual=True)]
    assert_recomputing_changes_nothing(lambda: build(*layers), tokens(), [4, 7], kind)


@pytest.mark.slow
# torch's own, about the input of a block, which is not a leaf (torch 2.13).
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("policy", ["block", "model"])
def test_compiles_without_a_break(policy):
    model = build(attention(), attention(share=True), attention(share=True))
    expected = model(tokens())[0]
    torch.compiler.reset()
    compile_model(model, policy, backend="aot_eager")
    assert_same_gradients(model(tokens())[0], expected, list(model.parameters()))


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(
        ConfigError, match="share_kv leaves no values of the layer's own, which value_residual would mix"
    ):
        build(attention(share=True, value_residual=True))
    with pytest.raises(ConfigError, match="share_kv: LinearAttention has no window of keys and values to share"):
        build(attention(share=True, attention="linear", qk_norm="none", wide_qk_norm="none"))


@pytest.mark.slow
def test_costs_have_the_smaller_cache():
    small = ["train.context=64", "train.batch_size=2"]
    shared, own = (
        estimate_cost(
            load("cla_tiny", [*small, *(f"model.layers[{layer}].mixer.share_kv={share}" for layer in (1, 3))])
        )
        for share in ("true", "false")
    )
    caches = [cost.state_bytes - 8 for cost in (shared, own)]  # but for the position of the model
    assert caches[0] * 2 == caches[1]
    assert own.params - shared.params == 2 * 2 * 128**2
    assert shared.flops_per_token < own.flops_per_token


def test_gemma_3n_shares_alike():
    transformers = pytest.importorskip("transformers")
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nRotaryEmbedding, Gemma3nTextAttention

    kinds = ["sliding", "full", "sliding", "sliding", "full", "sliding"]
    config = transformers.Gemma3nTextConfig(
        hidden_size=DIM,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        num_hidden_layers=6,
        num_kv_shared_layers=3,
        layer_types=[f"{kind}_attention" for kind in kinds],
        sliding_window=WINDOW,
        attn_implementation="eager",
    )
    theirs = [Gemma3nTextAttention(config, index).double().eval() for index in range(6)]
    bases = {kind: config.rope_parameters[f"{kind}_attention"]["rope_theta"] for kind in WINDOWS if kind != "chunk"}
    ours = build(
        *(
            attention(
                kind,
                share=index >= 3,
                scale=1.0,
                wide_qk_norm="none",
                qk_norm={"type": "rms", "eps": config.rms_norm_eps, "zero_centered": False},
                position={"type": "rope", "base": bases[kind], "interleaved": False},
            )
            for index, kind in enumerate(kinds)
        )
    )
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    names |= {"query_norm": "q_norm", "key_norm": "k_norm"}
    for block, other in zip(ours.blocks, theirs, strict=True):
        for part, name in names.items():
            assert hasattr(block.mixer, part) == hasattr(other, name)
            if hasattr(other, name):
                getattr(other, name).load_state_dict(getattr(block.mixer, part).state_dict())
        other.v_norm = nn.Identity()  # a norm of values, which we have none of
    x, shared, steps = torch.randn(2, TOKENS, DIM, dtype=torch.float64), {}, torch.arange(TOKENS)
    y, age = x, steps[:, None] - steps
    with Wide():
        rotary = Gemma3nRotaryEmbedding(config)
        for kind, other in zip(kinds, theirs, strict=True):
            seen = (age >= 0) & (age < (WINDOW if kind == "sliding" else TOKENS))
            mask = torch.zeros(1, 1, TOKENS, TOKENS).masked_fill(~seen, float("-inf"))
            angles = rotary(y, steps[None], f"{kind}_attention")
            y = y + other(y, angles, mask, shared_kv_states=shared)[0]
    entries, actual = {}, x
    for index, block in enumerate(ours.blocks):
        source = ours.kv_sources[index]
        out, _ = block.mixer(actual, **({} if source is None else {"kv": entries[source]}))
        out, given = out if isinstance(out, tuple) else (out, {})
        entries[index], actual = given.get("kv"), actual + out
    torch.testing.assert_close(actual, y, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_learning_rates_transfer():
    transfers(ComponentCase("mixer", "attention", {"share_kv": True, "attention": attention()["attention"]}))
