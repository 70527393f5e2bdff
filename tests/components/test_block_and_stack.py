import pytest
import torch
from streams import assert_one_stream, assert_same_gradients, in_pieces
from torch import nn

from archlab import Recurrent
from archlab.config.registry import find
from archlab.config.spec import parse
from archlab.modeling.build import build as build_spec
from archlab.modeling.build import build_on_meta
from archlab.modeling.loss import total_loss
from archlab.ops.linear_cross_entropy import linear_cross_entropy
from archlab.testing.component_case import ComponentCase
from archlab.testing.transfer import transfers

VOCAB, DIM = 17, 8
MEGALODON = {
    "norm": {"type": "timestep", "num_groups": 2},
    "residual": "two_hop",
    "mixer": {
        "type": "megalodon",
        "shared_dim": 4,
        "value_dim": 12,
        "attention": {"type": "softmax", "window": "chunk", "window_size": 4},
    },
}
SLIDING = {
    "mixer": {
        "type": "attention",
        "num_heads": 2,
        "attention": {"type": "softmax", "window": "sliding", "window_size": 5},
    },
    "residual": "parallel",
    "ffn": "mlp",
}
STACKS = {
    "megalodon": {"layers": [MEGALODON | {"repeat": 2}], "norm": {"type": "timestep", "num_groups": 2}},
    "mixed": {"layers": [SLIDING, MEGALODON], "position": "learned"},
    "attention": {"layers": [SLIDING], "position": "sinusoidal", "head": {"type": "language_model", "tied": True}},
}
every_stack = pytest.mark.parametrize("name", STACKS)


def spec(name):
    return parse({"type": "stack", "vocab_size": VOCAB, "dim": DIM} | STACKS[name], "backbone", "model")


def build(name):
    return build_spec(spec(name))


def tokens(num_tokens, batch_size=2):
    return torch.randint(VOCAB, (batch_size, num_tokens), generator=torch.Generator().manual_seed(1))


def shapes(state):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


class Remembers(Recurrent):
    """Adds the number of tokens seen before this call, `step` for each, and says so in its state."""

    def __init__(self, dim, step=1.0):
        super().__init__()
        self.step = step

    def init_state(self, batch_size):
        return {"seen": torch.zeros(batch_size)}

    def forward(self, x, state=None):
        seen = (state or self.init_state(len(x)))["seen"]
        return x + self.step * seen[:, None, None], {"seen": seen + x.shape[1]}


def test_a_block_hands_each_part_its_own_state():
    layer = find("layer", "block").cls(
        DIM,
        0,
        residual=find("residual", "parallel").cls,
        norm=nn.LayerNorm,
        mixer=Remembers,
        ffn_norm=lambda dim: Remembers(dim, 10.0),
        ffn=lambda dim: Remembers(dim, 100.0),
    )
    assert set(layer.init_state(1)) == {"mixer.seen", "ffn_norm.seen", "ffn.seen"}
    state = {"mixer.seen": torch.tensor([1.0]), "ffn_norm.seen": torch.tensor([2.0]), "ffn.seen": torch.tensor([3.0])}
    y, last = layer(torch.zeros(1, 4, DIM), state)
    assert y.unique().tolist() == [1 + 20 + 300]
    assert {name: tensor.item() for name, tensor in last.items()} == {
        "mixer.seen": 5,
        "ffn_norm.seen": 6,
        "ffn.seen": 7,
    }


OUTPUT_NORMS = {"output_norm": {"type": "rms", "eps": 1e-3}, "ffn_output_norm": {"type": "layer", "bias": False}}


@pytest.mark.parametrize("residual", ["pre_norm", "parallel", "two_hop"])
def test_norms_of_the_outputs_come_before_the_residual(residual):
    knobs = SLIDING | OUTPUT_NORMS | {"residual": residual}
    layer = parse(knobs, "layer", "layer", "block").factory()(DIM, 0).double()
    x = torch.randn(2, 7, DIM, dtype=torch.float64, requires_grad=True)

    def mixer(h):
        return layer.output_norm(layer.mixer(layer.norm(h))[0])

    def ffn(h):
        return layer.ffn_output_norm(layer.ffn(layer.ffn_norm(h)))

    def expected():
        y = x + mixer(x)
        return {"pre_norm": y + ffn(y), "parallel": y + ffn(x), "two_hop": x + ffn(y)}[residual]

    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    assert_same_gradients(layer(x)[0], expected(), [x, *layer.parameters()])
    assert layer.branches == layer.residual.added(layer.output_norm, layer.ffn_output_norm)


@pytest.mark.slow
def test_learning_rates_transfer_where_outputs_are_normalized():
    knobs = {"mixer": {"type": "attention", "attention": {"type": "softmax", "window_size": 32}}, **OUTPUT_NORMS}
    transfers(ComponentCase("layer", "block", knobs))


def test_a_norm_of_an_output_keeps_its_state():
    norm = {"output_norm": {"type": "timestep", "num_groups": 2}}
    layer = parse(SLIDING | norm, "layer", "layer", "block").factory()(DIM, 0).double()
    assert_one_stream(layer, torch.randn(2, 9, DIM, dtype=torch.float64))


def test_a_block_names_no_state_of_parts_that_forget():
    layer = find("layer", "block").cls(DIM, 0, mixer=lambda dim: nn.Identity())
    assert layer.init_state(3) == {}
    assert layer(torch.randn(3, 2, DIM))[1] == {}


def test_a_residual_that_needs_an_ffn_refuses_none():
    with pytest.raises(ValueError, match="this residual needs an ffn"):
        find("layer", "block").cls(
            DIM, 0, mixer=Remembers, residual=find("residual", "two_hop").cls, ffn=find("ffn", "none").cls
        )


def test_dropout_falls_on_both_branches_in_training_alone():
    layer = find("layer", "block").cls(DIM, 0, mixer=Remembers, dropout=1.0)
    x = torch.randn(1, 3, DIM)
    assert torch.equal(layer(x)[0], x)
    assert not torch.equal(layer.eval()(x)[0], x)


@pytest.mark.slow
def test_layers_know_their_index():
    block = MEGALODON | {"residual": {"type": "two_hop", "rescale": True}}
    stack = parse({"type": "stack", "vocab_size": VOCAB, "dim": DIM, "layers": [block] * 3}, "backbone", "model")
    assert [b.residual.scale[0].item() for b in build_spec(stack).blocks] == pytest.approx([0.1, 0.05, 0.025])


@every_stack
def test_a_state_keeps_its_names_shapes_and_dtypes(name):
    model = build(name)
    state = model.reserve_state(model.init_state(3), None)
    first = shapes(state)
    for num_tokens in (1, 4, 9):
        _, state = model(tokens(num_tokens, 3), state)
        assert shapes(state) == first
    assert all(tensor.shape[0] == 3 for tensor in state.values())


@every_stack
def test_each_layer_has_a_state_of_its_own(name):
    model = build(name)
    _, state = model(tokens(6))
    for number, _ in enumerate(model.blocks):
        own = [key for key in state if key.startswith(f"blocks.{number}.")]
        assert own
        changed = state | {key: state[key] + 1 for key in own if state[key].is_floating_point()}
        assert not torch.equal(model(tokens(3), changed)[0], model(tokens(3), state)[0])


@every_stack
def test_calls_cut_in_time_equal_one_call(name):
    model = build(name).double()
    whole, last = model(tokens(13))
    for sizes in ([13], [1] * 13, [5, 1, 7], [4, 4, 5]):
        cut, state = in_pieces(model, (tokens(13),), sizes)
        torch.testing.assert_close(cut, whole, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@every_stack
def test_gradients_flow_through_the_state(name):
    model, weight = build(name).double(), torch.randn(2, 13, VOCAB, dtype=torch.float64)
    parameters = list(model.parameters())
    cut = torch.autograd.grad((in_pieces(model, (tokens(13),), [5, 1, 7])[0] * weight).sum(), parameters)
    whole = torch.autograd.grad((model(tokens(13))[0] * weight).sum(), parameters)
    torch.testing.assert_close(cut, whole, rtol=1e-8, atol=1e-8)


@every_stack
def test_no_token_moves_an_earlier_score(name):
    model, given = build(name).double(), tokens(13)
    before = model(given)[0]
    for t in (0, 3, 4, 12):
        changed = given.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCAB
        after = model(changed)[0]
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.isclose(after[:, t], before[:, t]).all()


@every_stack
def test_rows_of_a_batch_may_be_picked_and_reordered(name):
    model, order = build(name).double(), torch.tensor([2, 0])
    _, state = model(tokens(6, 3))
    whole, _ = model(tokens(5, 3), state)
    picked, _ = model(tokens(5, 3)[order], {key: tensor[order] for key, tensor in state.items()})
    torch.testing.assert_close(picked, whole[order], rtol=1e-10, atol=1e-10)


@every_stack
def test_autocast_stays_close_to_float32(name):
    model = build(name)
    expected, _ = model(tokens(13))
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(tokens(13))
        step, _ = model(tokens(2), state)
    assert logits.dtype == torch.float32
    assert (logits - expected).norm() < 3e-2 * expected.norm()
    assert not torch.equal(logits, expected)
    assert step.isfinite().all()


@every_stack
def test_half_precision_parameters_stay_close_to_float32(name):
    model = build(name)
    expected, _ = model(tokens(13))
    half, state = in_pieces(model.bfloat16(), (tokens(13),), [5, 8])
    assert (half - expected).norm() < 5e-2 * expected.norm()
    assert shapes(model.reserve_state(state, None)) == shapes(model.reserve_state(model.init_state(2), None))


@every_stack
def test_a_model_without_memory_can_be_given_some(name):
    model = build_on_meta(spec(name))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        nn.init.constant_(tensor, torch.nan)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert all(p.isfinite().all() for p in model.parameters())
    expected = {key: (p.mean(), p.std(correction=0)) for key, p in build(name).named_parameters()}
    for key, p in model.named_parameters():
        mean, std = expected[key]
        assert abs(p.mean() - mean) < 0.1 + std, key
        assert std / 3 <= p.std(correction=0) <= 3 * std, key


@every_stack
def test_the_meta_device_gives_shapes(name):
    model = build_on_meta(spec(name))
    logits, state = model(tokens(13).to("meta"))
    assert logits.shape == (2, 13, VOCAB)
    assert shapes(state) == shapes(build(name)(tokens(13))[1])


@every_stack
def test_the_seed_decides_the_parameters_and_nothing_else(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = build_spec(spec(name)), build_spec(spec(name)), build_spec(spec(name), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_a_factor_of_the_output_is_one_of_the_logits():
    model = build("attention")
    logits, _ = model(tokens(7))
    model.output_factor = 0.25
    torch.testing.assert_close(model(tokens(7))[0], 0.25 * logits)
    chunked = linear_cross_entropy(model.features(tokens(7))[0].flatten(0, 1), model.head.matrix, tokens(7).flatten())
    torch.testing.assert_close(total_loss(model, tokens(7), tokens(7))[0], chunked)
