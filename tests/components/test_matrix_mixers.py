"""The mixers with a matrix per head, against their papers' equations step by step."""

import math

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients
from torch.nn import functional as F

from archlab.config.registry import find

NAMES = [
    "gla",
    "hgrn2",
    "retention",
    "delta_net",
    "gated_delta_net",
    "gated_delta_product",
    "kimi_delta_attention",
]
WIDTHS = {"num_heads": 3, "key_dim": 12, "value_dim": 15}
DIM, K = 7, 4


def build(name, **knobs):
    torch.manual_seed(0)
    layer = find("mixer", name).cls(DIM, **(WIDTHS | knobs)).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


def inputs(num_tokens):
    torch.manual_seed(1)
    return torch.randn(2, num_tokens, DIM, dtype=torch.float64, requires_grad=True)


def by_head(x):
    return x.reshape(*x.shape[:-1], 3, -1)


def rms(y, norm):
    return y / (y.square().mean(-1, keepdim=True) + norm.eps).sqrt() * (1 + norm.weight)


def recur(q, k, v, decay, correct=None):
    """Return q_t S_t of S_t = decay_t S_{t-1} + k_t v_t, or of the delta rule by these fractions."""
    state, outputs = torch.zeros(2, 3, K, v.shape[-1], dtype=torch.float64), []
    for t in range(q.shape[1]):
        state = decay[:, t, :, :, None] * state
        target = v[:, t]
        if correct is not None:
            target = correct[:, t, :, None] * (target - torch.einsum("bhk,bhkv->bhv", k[:, t], state))
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], target)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1) / math.sqrt(K)


def gla(layer, x):
    q, k, v = (by_head(x @ part.weight.T) for part in (layer.query, layer.key, layer.value))
    down, up = layer.decay
    decay = torch.sigmoid(x @ down.weight.T @ up.weight.T + up.bias) ** (1 / 16)
    y = rms(recur(q, k, v, by_head(decay)), layer.mixed.norm).flatten(-2)
    return (y * F.silu(x @ layer.mixed.gate.weight.T)) @ layer.mixed.out.weight.T


def turned(x):
    """Rotate the first pair of features by one radian a step, and the second by a hundredth."""
    angle = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)
    pairs = torch.view_as_complex(x.unflatten(-1, (2, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)[None, :, None]).flatten(-2)


def retention(layer, x):
    """Weigh all earlier values by gamma^(t - s), the parallel form."""
    q, k, v = (by_head(x @ part.weight.T) for part in (layer.query, layer.key, layer.value))
    y = torch.zeros_like(v)
    for h, gamma in enumerate((1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128)):
        lag = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        weights = torch.where(lag >= 0, gamma ** lag.clamp(min=0).double(), 0)
        y[:, :, h] = (turned(q)[:, :, h] @ turned(k)[:, :, h].mT * weights / math.sqrt(K)) @ v[:, :, h]
    norm = layer.mixed.norm
    centred = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    y = centred.flatten(-2) * (1 + norm.weight) + norm.bias
    return (y * F.silu(x @ layer.mixed.gate.weight.T)) @ layer.mixed.out.weight.T


def convolved(part, x):
    taps, y = part.ema.weight, x @ part.map.weight.T
    seen = [sum(taps[-1 - j] * y[:, t - j] for j in range(min(len(taps), t + 1))) for t in range(x.shape[1])]
    return by_head(F.silu(torch.stack(seen, 1)))


def unit(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def delta(layer, x, decay, largest):
    q, k, v = (convolved(part, x) for part in (layer.query, layer.key, layer.value))
    fraction = largest * torch.sigmoid(x @ layer.fraction.weight.T)
    y = rms(recur(unit(q), unit(k), v, decay, fraction), layer.mixed.norm).flatten(-2)
    gate = 1.0 if layer.mixed.gate is None else F.silu(x @ layer.mixed.gate.weight.T)
    return (y * gate) @ layer.mixed.out.weight.T


def delta_net(layer, x, largest=1.0):
    return delta(layer, x, torch.ones(2, x.shape[1], 3, 1, dtype=torch.float64), largest)


def gated_delta_net(layer, x, largest=1.0):
    step = F.softplus(x @ layer.step.weight.T + layer.step.bias)
    return delta(layer, x, torch.exp(-layer.log_rate.exp() * step)[..., None], largest)


def gated_delta_product(layer, x, largest=2.0):
    """Run the corrections of a token as tokens of their own, of which the last one is read."""
    q, k, v = (convolved(part, x) for part in (layer.query, layer.key, layer.value))
    fraction = by_head(largest * torch.sigmoid(x @ layer.fraction.weight.T))
    step = F.softplus(x @ layer.step.weight.T + layer.step.bias)
    decay = torch.exp(-layer.log_rate.exp() * step)[..., None]
    k, v = k.unflatten(-1, (2, -1)), v.unflatten(-1, (2, -1))
    both = [torch.stack(pair, 2).flatten(1, 2) for pair in (k.unbind(3), v.unbind(3), fraction.unbind(3))]
    twice = torch.stack((q, q), 2).flatten(1, 2)
    decays = torch.stack((decay, torch.ones_like(decay)), 2).flatten(1, 2)
    y = recur(unit(twice), unit(both[0]), both[1], decays, both[2])[:, 1::2]
    return (rms(y, layer.mixed.norm).flatten(-2) * F.silu(x @ layer.mixed.gate.weight.T)) @ layer.mixed.out.weight.T


def kimi_delta_attention(layer, x, largest=1.0):
    q, k, v = (convolved(part, x) for part in (layer.query, layer.key, layer.value))
    down, up = layer.decay
    step = by_head(F.softplus(x @ down.weight.T @ up.weight.T + up.bias))
    decay = torch.exp(-layer.log_rate.exp()[:, None] * step)
    y = recur(unit(q), unit(k), v, decay, largest * torch.sigmoid(x @ layer.fraction.weight.T))
    gate = torch.sigmoid(x @ layer.gate[0].weight.T @ layer.gate[1].weight.T)
    return (rms(y, layer.mixed.norm).flatten(-2) * gate) @ layer.mixed.out.weight.T


def hgrn2(layer, x, bound=0.0):
    q, k, v = (by_head(x @ part.weight.T) for part in (layer.query, layer.key, layer.value))
    decay = bound + (1 - bound) * torch.sigmoid(k)
    return rms(recur(F.silu(q), 1 - decay, v, decay).flatten(-2), layer.mixed.norm) @ layer.mixed.out.weight.T


EQUATIONS = {
    "gla": gla,
    "hgrn2": hgrn2,
    "retention": retention,
    "delta_net": delta_net,
    "gated_delta_net": gated_delta_net,
    "gated_delta_product": gated_delta_product,
    "kimi_delta_attention": kimi_delta_attention,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_tokens", [1, 2, 70])
def test_agrees_with_its_equations(name, num_tokens):
    layer, x = build(name), inputs(num_tokens)
    assert_same_gradients(layer(x)[0], EQUATIONS[name](layer, x), [x, *layer.parameters()])


@pytest.mark.parametrize("name", ["delta_net", "gated_delta_net", "kimi_delta_attention"])
def test_negative_eigenvalues_double_the_correction(name):
    layer, x = build(name, negative_eigenvalues=True), inputs(20)
    torch.testing.assert_close(layer(x)[0], EQUATIONS[name](layer, x, largest=2.0), rtol=1e-10, atol=1e-10)


def test_decays_of_hgrn2_may_have_a_lower_bound():
    layer, x = build("hgrn2", lower_bound=0.6), inputs(20)
    assert_same_gradients(layer(x)[0], hgrn2(layer, x, 0.6), [x, *layer.parameters()])


def test_products_may_have_positive_eigenvalues_alone():
    layer, x = build("gated_delta_product", negative_eigenvalues=False), inputs(20)
    torch.testing.assert_close(layer(x)[0], gated_delta_product(layer, x, largest=1.0), rtol=1e-10, atol=1e-10)


def test_one_householder_is_gated_delta_net():
    knobs = {"num_householders": 1, "negative_eigenvalues": False}
    one, other, x = build("gated_delta_product", **knobs), build("gated_delta_net"), inputs(20)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x)[0], other(x)[0], rtol=1e-12, atol=1e-12)


def test_heads_of_values_may_share_queries_and_keys():
    knobs = {"num_heads": 3, "values_per_key": 2, "key_dim": 12, "value_dim": 18}
    shared, own, x = (
        build("gated_delta_net", **knobs),
        build("gated_delta_net", num_heads=6, key_dim=24, value_dim=18),
        inputs(20),
    )
    given = shared.state_dict()
    for part in ("query", "key"):
        given[f"{part}.map.weight"] = (
            given[f"{part}.map.weight"].unflatten(0, (3, 4)).repeat_interleave(2, 0).flatten(0, 1)
        )
        given[f"{part}.ema.weight"] = (
            given[f"{part}.ema.weight"].unflatten(1, (3, 4)).repeat_interleave(2, 1).flatten(1, 2)
        )
    own.load_state_dict(given)
    torch.testing.assert_close(shared(x)[0], own(x)[0], rtol=1e-12, atol=1e-12)
    assert_one_stream(shared, inputs(70).detach())
    with pytest.raises(ValueError, match=r"value_dim 15 is not divisible by num_heads \* values_per_key 6"):
        build("gated_delta_net", values_per_key=2)


def test_delta_net_may_gate_its_output():
    layer, x = build("delta_net", gate=True), inputs(20)
    torch.testing.assert_close(layer(x)[0], delta_net(layer, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ema", ["none", "cema"])
def test_queries_keys_and_values_may_see_any_average(ema):
    component = find("ema", ema)
    assert_one_stream(build("delta_net", ema=component.cls), inputs(70).detach())


@pytest.mark.parametrize("name", NAMES)
def test_streams(name):
    assert_one_stream(build(name), inputs(70).detach())


@pytest.mark.parametrize("name", NAMES)
def test_sums_stay_wide_under_autocast(name):
    layer = build(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(inputs(70).float())
    assert y.dtype == torch.bfloat16
    assert state["sums"].dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", ["key_dim", "value_dim"])
def test_refuses_widths_that_heads_do_not_share(name, width):
    with pytest.raises(ValueError, match=rf"{width} 16 is not divisible by num_heads 3"):
        build(name, **{width: 16})


@pytest.mark.parametrize("name", NAMES)
def test_widths_follow_the_papers(name):
    layer = find("mixer", name).cls(64)
    widths = {"gla": (32, 64), "retention": (64, 128), "gated_delta_net": (48, 96), "gated_delta_product": (48, 96)}
    key_dim, value_dim = widths.get(name, (64, 64))
    assert layer.init_state(1)["sums"].shape == (1, 4, key_dim // 4, value_dim // 4)


@pytest.mark.parametrize("position", ["alibi", "relative_bias"])
def test_retention_refuses_positions_that_add_to_scores(position):
    with pytest.raises(ValueError, match=r"no scores for (ALiBi|RelativeBias) to add to"):
        build("retention", position=find("position", position).cls)


def test_gated_delta_net_begins_as_mamba_2():
    torch.manual_seed(0)
    layer = find("mixer", "gated_delta_net").cls(32, num_heads=1000, key_dim=1000, value_dim=1000)
    step, rate = F.softplus(layer.step.bias.double()), layer.log_rate.exp()
    assert step.min() >= 1e-3 * (1 - 1e-4)
    assert step.max() <= 0.1 * (1 + 1e-4)
    assert step.log().mean().item() == pytest.approx(math.log(1e-4) / 2, abs=0.1)
    assert rate.max() <= 16
    assert rate.mean().item() == pytest.approx(8, abs=0.5)


@pytest.mark.parametrize("head_dim", [None, 5])
@pytest.mark.parametrize("num_tokens", [1, 2, 70])
def test_lightning_attention_agrees_with_its_equations(num_tokens, head_dim):
    torch.manual_seed(0)
    layer = find("mixer", "lightning").cls(12, num_heads=3, head_dim=head_dim, decay_rate=0.7).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, num_tokens, 12, dtype=torch.float64, requires_grad=True)
    q, k, v = (by_head(F.silu(x @ part.weight.T)) for part in (layer.query, layer.key, layer.value))
    y = torch.zeros_like(v)
    for h in range(3):
        lag = torch.arange(num_tokens)[:, None] - torch.arange(num_tokens)
        decays = torch.exp(-0.7 * 2 ** (-8 * (h + 1) / 3) * lag.clamp(min=0).double()) * (lag >= 0)
        y[:, :, h] = (q[:, :, h] @ k[:, :, h].mT * decays) @ v[:, :, h]
    expected = torch.sigmoid(x @ layer.gate.weight.T) * rms(y.flatten(-2), layer.norm) @ layer.out.weight.T
    assert_same_gradients(layer(x)[0], expected, [x, *layer.parameters()])
    if num_tokens > 4:
        assert_one_stream(layer, x.detach())


def test_lightning_attention_refuses_a_width_that_heads_do_not_share():
    with pytest.raises(ValueError, match="dim 12 is not divisible by num_heads 5"):
        find("mixer", "lightning").cls(12, num_heads=5)


def mlstm(layer, x):
    """Divide all sums by the largest gate so far, as the paper does in its stabilized form (eqs. 24 to 27)."""
    q, k, v = (by_head(x @ part.weight.T) for part in (layer.query, layer.key, layer.value))
    cap = layer.gate_cap
    i, f = (cap * torch.tanh((x @ gate.weight.T + gate.bias) / cap) for gate in (layer.input_gate, layer.forget_gate))
    C, n, largest, outputs = 0.0, 0.0, torch.zeros_like(i[:, 0]), []
    for t in range(x.shape[1]):
        before, largest = largest, torch.maximum(F.logsigmoid(f[:, t]) + largest, i[:, t])
        kept = torch.exp(F.logsigmoid(f[:, t]) + before - largest)[..., None]
        added = torch.exp(i[:, t] - largest)[..., None] * k[:, t]
        C = kept[..., None] * C + torch.einsum("bhk,bhv->bhkv", added, v[:, t])
        n = kept * n + added
        scaled = q[:, t] / math.sqrt(K)
        below = torch.maximum((scaled * n).sum(-1).abs(), torch.exp(-largest)) + 1e-6
        outputs.append(torch.einsum("bhk,bhkv->bhv", scaled, C) / below[..., None])
    y = torch.stack(outputs, 1)
    centred = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + layer.norm.eps).sqrt()
    gate = torch.sigmoid(x @ layer.output_gate.weight.T)
    return (gate * centred.flatten(-2) * layer.norm.weight) @ layer.out.weight.T


@pytest.mark.parametrize("shift", [-10.0, 0.0, 40.0])
@pytest.mark.parametrize("num_tokens", [1, 2, 70])
def test_mlstm_agrees_with_its_stabilized_equations(num_tokens, shift):
    layer, x = build("mlstm"), inputs(num_tokens)
    torch.nn.init.normal_(layer.input_gate.bias, mean=shift)
    assert_same_gradients(layer(x)[0], mlstm(layer, x), [x, *layer.parameters()])
    if num_tokens > 4:
        assert_one_stream(layer, x.detach())


@pytest.mark.parametrize("cap", [0.25, 1.0, 15.0])
def test_the_gates_of_mlstm_begin_where_their_cap_has_a_slope(cap):
    layer = build("mlstm", gate_cap=cap).float()
    layer(inputs(7).float())[0].square().sum().backward()
    assert all(gate.bias.grad.all() for gate in (layer.input_gate, layer.forget_gate))


def test_the_gates_of_mlstm_stay_finite_in_float32():
    layer = build("mlstm", gate_cap=40.0).float()
    for gate in (layer.input_gate, layer.forget_gate):
        torch.nn.init.constant_(gate.bias, 1e4)
    x = inputs(300).float()
    close = mlstm(layer.double(), x.double()).float()
    torch.testing.assert_close(layer.float()(x)[0], close, rtol=1e-3, atol=1e-3)
