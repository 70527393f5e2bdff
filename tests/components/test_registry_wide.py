"""What every component promises, tested on each of them by name: a new one is tested by being there."""

import pytest
import torch
from streams import in_pieces
from torch.nn import functional as F

from archlab.model import build as build_spec
from archlab.registry import find, names
from archlab.spec import parse
from archlab.state import init_state

VOCAB, DIM, TOKENS, WINDOW = 17, 32, 13, 5
GROUPS = {"timestep": {"num_groups": 4}}
WIDTHS = {
    "megalodon": {"shared_dim": 16, "value_dim": 32},
    "block_recurrent": {"block_size": 4, "num_states": 3},
    "rwkv6": {"head_dim": 8, "mix_rank": 4, "decay_rank": 6},
    "rwkv7": {"head_dim": 8, "decay_rank": 4, "rate_rank": 5, "gate_rank": 6},
}
BACKBONES = {"megabyte": {"patch_size": 4, "local_dim": 8, "local_layers": [{"mixer": "attention"}]}}
PLAIN_MIXER = {"type": "attention", "num_heads": 2}


def knobs(kind, name, **own):
    """Return a component's YAML, with a window where it has one."""
    windowed = {"window": "sliding", "window_size": WINDOW} if "window" in find(kind, name).knobs else {}
    return {"type": name} | windowed | own


def norm(name):
    return knobs("norm", name, **GROUPS.get(name, {}))


def mixer(name, **own):
    """Return a mixer's YAML, its attention, if it has one, over a window."""
    attention = {"attention": knobs("attention", "softmax")} if "attention" in find("mixer", name).knobs else {}
    return knobs("mixer", name, **(WIDTHS.get(name, {}) | attention | own))


def model(layer=None, repeat=2, **own):
    layer = {"mixer": mixer("attention", num_heads=2), "ffn": {"type": "mlp", "hidden_dim": 32}} | (layer or {})
    return {"type": "stack", "vocab_size": VOCAB, "dim": DIM, "layers": [layer | {"repeat": repeat}]} | own


def with_ema(name):
    return model({"mixer": mixer("megalodon", ema=name)})


def with_norm(name):
    return model({"norm": norm(name), "ffn_norm": norm(name)}, norm=norm(name))


def with_attention(name):
    return model({"mixer": mixer("attention", num_heads=2, attention=knobs("attention", name))})


def with_mixer(name):
    return model({"mixer": mixer(name)})


def with_ffn(name):
    return model({"ffn": name} | ({"ffn_norm": "none"} if name == "none" else {}))


def with_residual(name):
    return model({"residual": name})


def with_position(name):
    if find("position", name).cls.place == "embedding":
        return model(position=name)
    return model({"mixer": mixer("attention", num_heads=2, position=name)})


def with_backbone(name):
    return model() | {"type": name} | BACKBONES.get(name, {})


def causal_names(kind):
    """Return the components that do not look ahead; of the others nothing is promised about time."""
    return [name for name in names(kind) if getattr(find(kind, name).cls, "causal", True)]


KINDS = {
    "ema": with_ema,
    "norm": with_norm,
    "attention": with_attention,
    "mixer": with_mixer,
    "ffn": with_ffn,
    "residual": with_residual,
    "position": with_position,
    "backbone": with_backbone,
}
EVERY = {f"{kind}-{name}": make(name) for kind, make in KINDS.items() for name in causal_names(kind)}
PAIRS = {
    f"{one}-{other}": model({"mixer": mixer(one), "residual": other})
    for one in names("mixer")
    for other in names("residual")
}
COMPILED = {
    "megalodon": model(
        {
            "mixer": mixer("megalodon", attention=knobs("attention", "softmax", window="chunk")),
            "residual": "two_hop",
            "norm": norm("timestep"),
        },
        repeat=1,
    ),
    "mega": model(
        {"mixer": mixer("mega", ema="s4d", attention=knobs("attention", "laplace")), "residual": "gated"}, repeat=1
    ),
    "linear": model({"mixer": mixer("attention", num_heads=2, attention="linear")}, repeat=1),
    "rwkv4": model({"mixer": mixer("rwkv4"), "ffn": "rwkv4"}, repeat=1, embedding_norm="layer"),
    "rwkv6": model({"mixer": mixer("rwkv6"), "ffn": "rwkv6"}, repeat=1, embedding_norm="layer"),
    "rwkv7": model({"mixer": mixer("rwkv7"), "ffn": "rwkv7"}, repeat=1, embedding_norm="layer"),
}
every_component = pytest.mark.parametrize("tree", EVERY.values(), ids=EVERY)
every_model = pytest.mark.parametrize("tree", (EVERY | PAIRS).values(), ids=EVERY | PAIRS)


def build(tree, dtype=torch.float64):
    """Return the model with its parameters moved, so that none of them is without effect."""
    built = build_spec(parse(tree, "backbone", "model")).to(dtype)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype), alpha=0.05)
    return built


def tokens(num_tokens=TOKENS):
    return torch.randint(VOCAB, (2, num_tokens), generator=torch.Generator().manual_seed(1))


def layout(state):
    return {name: (tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in state.items()}


def loss_of(built):
    logits, _ = built(tokens())
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())


@torch.no_grad()
def assert_causal(built):
    given = tokens()
    before, _ = built(given)
    assert before.shape == (2, TOKENS, VOCAB)
    for t in (0, WINDOW, TOKENS - 1):
        changed = given.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCAB
        after, _ = built(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-12)
        assert not torch.isclose(after[:, t], before[:, t]).all()


@every_model
def test_no_token_moves_an_earlier_score(tree):
    assert_causal(build(tree))


def test_a_layer_that_looks_ahead_is_caught():
    class Peeks(torch.nn.Module):
        def forward(self, x):
            return x.roll(-1, 1)

    built = build(EVERY["mixer-attention"])
    built.blocks[0].ffn = Peeks()
    with pytest.raises(AssertionError, match="not close"):
        assert_causal(built)


@torch.no_grad()
def assert_streams(built, tolerance):
    whole, last = built(tokens())
    for sizes in ([TOKENS], [1] * TOKENS, [4, 8, 1]):
        cut, state = in_pieces(built, (tokens(),), sizes)
        torch.testing.assert_close(cut, whole, rtol=0, atol=tolerance)
        torch.testing.assert_close(state, last, rtol=tolerance, atol=tolerance)


@every_model
def test_calls_cut_in_time_equal_one_call(tree):
    assert_streams(build(tree), 1e-10)


@every_component
def test_calls_cut_in_time_equal_one_call_in_float32(tree):
    assert_streams(build(tree, torch.float32), 1e-5)


@every_component
@torch.no_grad()
def test_the_state_never_grows(tree):
    built, state = build(tree), None
    first = layout(init_state(built, 2))
    for num_tokens in (TOKENS, 1, 2):
        _, state = built(tokens(num_tokens), state)
        assert layout(state) == first
        assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in state.values())


@every_component
def test_gradients_are_finite_and_an_update_lowers_the_loss(tree):
    built = build(tree, torch.float32)
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-3)
    before = loss_of(built)
    before.backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    optimizer.step()
    assert loss_of(built) < before


@every_component
def test_a_layer_can_be_described_and_built_again(tree):
    spec = parse(tree, "backbone", "model")
    assert parse(spec.to_plain(), "backbone", "model").to_plain() == spec.to_plain()


@pytest.mark.parametrize("tree", COMPILED.values(), ids=COMPILED)
def test_compiles_without_a_break(tree):
    built = build(tree)
    parameters = list(built.parameters())
    expected, state = built(tokens())
    expected_gradients = torch.autograd.grad(expected.square().mean(), parameters)
    compiled = torch.compile(built, fullgraph=True, backend="aot_eager")
    logits, compiled_state = compiled(tokens())
    torch.testing.assert_close((logits, compiled_state), (expected, state), rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(logits.square().mean(), parameters)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_decoding_compiles_once():
    torch._dynamo.reset()
    built = build(COMPILED["megalodon"])
    compiled = torch.compile(built, fullgraph=True, backend="aot_eager", dynamic=False)
    whole, _ = built(tokens())
    _, state = built(tokens()[:, :4])
    outputs = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for token in tokens()[:, 4:].split(1, dim=1):
            logits, state = compiled(token, state)
            outputs.append(logits)
    torch.testing.assert_close(torch.cat(outputs, 1), whole[:, 4:], rtol=0, atol=1e-10)
