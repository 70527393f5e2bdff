import cmath
import math

import pytest
import torch

from archlab.config.registry import find, names


def build(name, num_heads, head_dim, **knobs):
    torch.manual_seed(0)
    return find("position", name).cls(num_heads, head_dim, **knobs)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("head_dim", [2, 6, 8])
def test_rope_turns_pairs(interleaved, head_dim):
    rope = build("rope", 3, head_dim, base=100.0, interleaved=interleaved)
    x = torch.randn(2, 4, 3, head_dim, dtype=torch.float64)
    position = torch.tensor([[0, 1, 5, 70], [3, 2, 1, 1000]])
    y, half = rope.rotate(x, position), head_dim // 2
    for b in range(2):
        for t in range(4):
            for i in range(half):
                first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
                turn = complex(0, position[b, t].item() * 100.0 ** (-2 * i / head_dim))
                turned = (x[b, t, :, first] + 1j * x[b, t, :, second]) * cmath.exp(turn)
                torch.testing.assert_close(y[b, t, :, first], turned.real)
                torch.testing.assert_close(y[b, t, :, second], turned.imag)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_turns_the_first_part_of_the_features(interleaved):
    x, position = torch.randn(2, 3, 2, 10, dtype=torch.float64), torch.tensor([[0, 1, 70]])
    partly = build("rope", 2, 10, interleaved=interleaved, fraction=0.45)
    y, whole = partly.rotate(x, position), build("rope", 2, 4, interleaved=interleaved)
    torch.testing.assert_close(y[..., :4], whole.rotate(x[..., :4], position))
    assert torch.equal(y[..., 4:], x[..., 4:])


def test_rope_sees_distances_alone_even_late_in_float32():
    rope = build("rope", 1, 64)
    q, k = torch.randn(2, 1, 1, 1, 64)
    scores = [
        (rope.rotate(q, torch.tensor([[start + 9]])) * rope.rotate(k, torch.tensor([[start]]))).sum().item()
        for start in (0, 10**7 + 1)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_rope_keeps_the_type_and_needs_pairs():
    rope = build("rope", 1, 4)
    assert rope.rotate(torch.ones(1, 2, 1, 4, dtype=torch.bfloat16), torch.tensor([[0, 1]])).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="head_dim 5 is odd"):
        build("rope", 1, 5)
    with pytest.raises(ValueError, match=r"0\.5 of head_dim 10, 5 features, is odd"):
        build("rope", 1, 10, fraction=0.5)
    with pytest.raises(ValueError, match=r"0\.05 of head_dim 10, 0 features, is 0"):
        build("rope", 1, 10, fraction=0.05)


SLOPES = {
    1: [2**-8],
    2: [2**-4, 2**-8],
    8: [2**-i for i in range(1, 9)],
    3: [2**-4, 2**-8, 2**-2],
    6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3],
}


@pytest.mark.parametrize("num_heads", SLOPES)
def test_alibi_slopes(num_heads):
    query, key = torch.tensor([[7, 8]]), torch.tensor([[5, 6, 8]])
    bias = build("alibi", num_heads, 4).bias(query, key)
    slopes = torch.tensor(SLOPES[num_heads]).view(-1, 1, 1)
    assert torch.equal(bias, (-slopes * torch.tensor([[2.0, 1, -1], [3, 2, 0]]))[None])


def test_alibi_agrees_with_mpt():
    mpt = pytest.importorskip("transformers.models.mpt.modeling_mpt")
    for num_heads in (4, 12, 20):
        theirs = mpt.build_mpt_alibi_tensor(num_heads, 10, alibi_bias_max=8)
        ours = build("alibi", num_heads, 4).bias(torch.tensor([[9]]), torch.arange(10)[None])
        torch.testing.assert_close(ours, theirs.view(1, num_heads, 1, 10))


def test_relative_bias_is_looked_up_by_distance():
    layer = build("relative_bias", 2, 4, max_distance=3)
    query, key = torch.tensor([[4, 9], [2, 3]]), torch.tensor([[2, 4, 9], [1, 2, 3]])
    bias = layer.bias(query, key)
    assert bias.shape == (2, 2, 2, 3)
    for b in range(2):
        for q in range(2):
            for s in range(3):
                distance = min(max((query[b, q] - key[b, s]).item(), 0), 2)
                assert torch.equal(bias[b, :, q, s], layer.weight[:, distance])
    bias.sum().backward()
    assert layer.weight.grad.sum() == bias.numel()


def test_learned_positions_are_added_and_the_last_is_shared():
    layer = build("learned", 1, 4, max_length=3)
    x = torch.randn(2, 4, 4)
    y = layer.embed(x, torch.tensor([[0, 1, 2, 9]]))
    torch.testing.assert_close(y, x + layer.weight[[0, 1, 2, 2]])


def test_sinusoidal_waves():
    x, position = torch.randn(1, 3, 6, dtype=torch.float64), [0, 4, 1000]
    y = build("sinusoidal", 1, 6).embed(x, torch.tensor([position])) - x
    for t, place in enumerate(position):
        for i in range(3):
            angle = place / 10000 ** (2 * i / 6)
            assert y[0, t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert y[0, t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)
    with pytest.raises(ValueError, match="dim 5 is odd"):
        build("sinusoidal", 1, 5)


@pytest.mark.parametrize("name", names("position"))
def test_the_hooks_it_does_not_use_change_nothing(name):
    layer = build(name, 1, 4)
    x, position = torch.randn(1, 2, 4), torch.tensor([[3, 4]])
    embeds, rotates = layer.embed(x, position) is not x, layer.rotate(x[:, :, None], position)[:, :, 0].ne(x).any()
    biases = layer.bias(position, position) is not None
    assert bool(embeds) + bool(rotates) + biases == (name != "none")
    assert embeds == (layer.place == "embedding")


def test_a_position_in_the_wrong_place_is_refused():
    assert build("none", 1, 4).require_place("attention").require_place("embedding")
    assert build("rope", 1, 4).require_place("attention")
    with pytest.raises(ValueError, match="LearnedPosition is a position of the embedding, not of the attention"):
        build("learned", 1, 4).require_place("attention")
    with pytest.raises(ValueError, match="RotaryPosition is a position of the attention, not of the embedding"):
        build("rope", 1, 4).require_place("embedding")


SCALED = {
    "rope_linear": ("linear", {"factor": 3.0}, {"factor": 3.0}),
    "rope_llama3": (
        "llama3",
        {"factor": 8.0, "trained_context": 50, "slow_turns": 1.5, "fast_turns": 4.0},
        {"factor": 8.0, "original_max_position_embeddings": 50, "low_freq_factor": 1.5, "high_freq_factor": 4.0},
    ),
    "rope_yarn": (
        "yarn",
        {"factor": 32.0, "trained_context": 400, "whole_pairs": False},
        {"factor": 32.0, "original_max_position_embeddings": 400, "truncate": False},
    ),
    "rope_yarn-whole": (
        "yarn",
        {"factor": 5.0, "trained_context": 300, "fast_turns": 20.0, "slow_turns": 2.0},
        {"factor": 5.0, "original_max_position_embeddings": 300, "beta_fast": 20, "beta_slow": 2},
    ),
    "rope_yarn-length": (
        "yarn",
        {"factor": 0.5, "trained_context": 300, "length": 1.3},
        {"factor": 0.5, "original_max_position_embeddings": 300, "attention_factor": 1.3},
    ),
    "rope_yarn-short": (
        "yarn",
        {"factor": 4.0, "trained_context": 5},
        {"factor": 4.0, "original_max_position_embeddings": 5},
    ),
}


@pytest.mark.parametrize("case", SCALED)
@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("base", [500.0, 1e6])
def test_scaled_rope_is_that_of_transformers(case, fraction, base):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind, knobs, fields = SCALED[case]
    rope = {"rope_type": kind, "rope_theta": base, "partial_rotary_factor": fraction, **fields}
    config = transformers.LlamaConfig(head_dim=24, max_position_embeddings=1600, rope_parameters=rope)
    theirs, factor = ROPE_INIT_FUNCTIONS[kind](config)
    layer = build(case.partition("-")[0], 2, 24, base=base, interleaved=False, fraction=fraction, **knobs)
    width = int(24 * fraction)
    x, position = torch.randn(2, 3, 2, 24, dtype=torch.float64), torch.tensor([[0, 7, 1500]])
    angle = position[0, :, None, None] * theirs.double()
    first, second = x[..., :width].chunk(2, -1)
    expected = torch.cat((first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()), -1)
    y = layer.rotate(x, position)
    torch.testing.assert_close(y[..., :width], factor * expected, rtol=0, atol=2e-3)  # their frequencies are float32
    torch.testing.assert_close(y[:, :2, :, :width], factor * expected[:, :2], rtol=0, atol=1e-5)
    assert torch.equal(y[..., width:], x[..., width:])


def test_ntk_keeps_the_highest_frequency_and_divides_the_lowest():
    layer, plain = build("rope_ntk", 1, 10, factor=3.0), build("rope", 1, 10)
    x = torch.randn(1, 1, 1, 10, dtype=torch.float64)
    turned, other = layer.rotate(x, torch.tensor([[6]])), plain.rotate(x, torch.tensor([[6]]))
    torch.testing.assert_close(turned[..., :2], other[..., :2])
    torch.testing.assert_close(turned[..., 8:], plain.rotate(x, torch.tensor([[2]]))[..., 8:])
    middle = complex(0, 6 * (10000.0 * 3 ** (10 / 8)) ** (-2 / 10))
    torch.testing.assert_close(
        torch.view_as_complex(turned[..., 2:4]), torch.view_as_complex(x[..., 2:4]) * cmath.exp(middle)
    )


@pytest.mark.parametrize(
    ("name", "head_dim", "knobs", "problem"),
    [
        ("rope_yarn", 8, {"fast_turns": 1.0}, r"fast_turns 1\.0 is not above slow_turns 1\.0"),
        ("rope_llama3", 8, {"slow_turns": 5.0}, r"fast_turns 4\.0 is not above slow_turns 5\.0"),
        ("rope_ntk", 2, {}, "needs two pairs of features or more"),
        ("rope_linear", 7, {}, "head_dim 7 is odd"),
    ],
)
def test_scaled_rope_refuses_what_has_no_frequencies(name, head_dim, knobs, problem):
    with pytest.raises(ValueError, match=problem):
        build(name, 1, head_dim, **knobs)
