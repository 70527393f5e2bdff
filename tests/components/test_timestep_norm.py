import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import assert_one_stream, assert_same_gradients

from archlab.config.registry import find

EPS = 1e-3


def build(dim=6, num_groups=2, eps=EPS, decay=1.0):
    torch.manual_seed(0)
    layer = find("norm", "timestep").cls(dim, num_groups=num_groups, eps=eps, decay=decay).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def carried(counts, num_groups=2):
    """Return statistics carried by rows of a batch that have seen so many steps, as leaves."""
    torch.manual_seed(1)
    mean = torch.randn(len(counts), num_groups, dtype=torch.float64, requires_grad=True)
    var = (torch.rand(len(counts), num_groups, dtype=torch.float64) + 0.2).requires_grad_()
    return {"count": torch.tensor(counts), "mean": mean, "var": var}


def welford(layer, x, state):
    """Update count, mean and variance step by step in float64; return outputs and the last of the three."""
    n, mean, var = state["count"].double()[:, None], state["mean"].double(), state["var"].double()
    outputs = []
    for t in range(x.shape[1]):
        groups = x[:, t].double().unflatten(-1, (layer.num_groups, -1))
        a = groups.mean(-1)
        s = (groups - a[..., None]).square().mean(-1)
        old, new, delta = n / (n + 1), 1 / (n + 1), a - mean
        n, mean, var = n + 1, mean + new * delta, old * var + new * s + old * new * delta**2
        y = ((groups - mean[..., None]) / (var[..., None] + layer.eps).sqrt()).flatten(-2)
        outputs.append(y * (1 + layer.weight.double()) + layer.bias.double())
    return torch.stack(outputs, 1), n[:, 0], mean, var


def weighted(layer, x):
    """Recompute the mean and variance of all steps so far at each step, weighted by powers of the decay."""
    outputs = []
    for t in range(x.shape[1]):
        groups = x[:, : t + 1].unflatten(-1, (layer.num_groups, -1))
        age = torch.arange(t, -1, -1, dtype=torch.float64)
        share = (layer.decay**age / (layer.decay**age).sum())[:, None]
        mean = (share * groups.mean(-1)).sum(1)
        var = (share * (groups - mean[:, None, :, None]).square().mean(-1)).sum(1)
        outputs.append(((groups[:, -1] - mean[..., None]) / (var[..., None] + layer.eps).sqrt()).flatten(-2))
    return torch.stack(outputs, 1) * (1 + layer.weight) + layer.bias, mean, var


def together(y, mean, var):
    return torch.cat([y.flatten(), mean.flatten(), var.flatten()])


@pytest.mark.parametrize("num_tokens", [1, 2, 9, 65])
@pytest.mark.parametrize("num_groups", [1, 2, 6])
@pytest.mark.parametrize("counts", [None, (0, 0, 0), (0, 5, 1000)])
def test_agrees_with_welford(num_tokens, num_groups, counts):
    layer = build(num_groups=num_groups)
    x = (torch.randn(3, num_tokens, 6, dtype=torch.float64) * 0.3 + 2).requires_grad_()
    state = layer.init_state(3) if counts is None else carried(counts, num_groups)
    y, last = layer(x, None if counts is None else state)
    expected, count, mean, var = welford(layer, x, state)
    assert torch.equal(last["count"].double(), count)
    leaves = [x, *layer.parameters(), *(state[k] for k in ("mean", "var") if counts)]
    assert_same_gradients(together(y, last["mean"], last["var"]), together(expected, mean, var), leaves)


@pytest.mark.parametrize("decay", [0.3, 0.97])
@pytest.mark.parametrize("num_tokens", [1, 2, 9, 67])
def test_a_decay_weights_steps_by_their_age(num_tokens, decay):
    layer = build(decay=decay)
    x = (torch.randn(3, num_tokens, 6, dtype=torch.float64) * 0.3 + 2).requires_grad_()
    y, last = layer(x)
    ours = together(y, last["mean"], last["var"])
    assert_same_gradients(ours, together(*weighted(layer, x)), [x, *layer.parameters()])


def test_a_decay_of_one_forgets_nothing_and_one_near_it_almost_nothing():
    x, kept = torch.randn(2, 70, 6, dtype=torch.float64), build()
    torch.testing.assert_close(build(decay=1 - 1e-13)(x)[0], kept(x)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_a_decay_follows_a_level_that_has_changed_long_ago():
    layer = build(64, 4, eps=1e-5, decay=0.99).float()
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    x = torch.cat((torch.randn(2, 5000, 64), 1000 + torch.randn(2, 3000, 64)), 1)
    torch.testing.assert_close(layer(x)[0].double(), weighted_late(layer, x.double()), rtol=0, atol=1e-4)


def weighted_late(layer, x):
    """Return outputs by a recurrence of both moments in float64."""
    first, second, total, outputs = 0.0, 0.0, 0.0, []
    for groups in x.unflatten(-1, (layer.num_groups, -1)).unbind(1):
        total = layer.decay * total + 1
        first, second = (
            layer.decay * old + new for old, new in ((first, groups.mean(-1)), (second, groups.square().mean(-1)))
        )
        mean = first / total
        var = second / total - mean.square()
        outputs.append(((groups - mean[..., None]) / (var[..., None] + layer.eps).sqrt()).flatten(-2))
    return torch.stack(outputs, 1)


def test_what_stands_before_the_first_step_has_no_weight():
    layer, x = build(), torch.randn(2, 5, 6, dtype=torch.float64)
    state = carried((0, 0))
    y, _ = layer(x, state)
    torch.testing.assert_close(y, layer(x)[0])
    assert not any(g.any() for g in torch.autograd.grad(y.square().sum(), [state["mean"], state["var"]]))


@pytest.mark.slow
@pytest.mark.parametrize("decay", [1.0, 0.8])
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(cuts=st.lists(st.integers(1, 29), max_size=5), seed=st.integers(0, 99))
def test_calls_cut_in_time_equal_one_call_and_its_gradients(decay, cuts, seed):
    layer, state, outputs = build(decay=decay), carried((0, 7)), []
    torch.manual_seed(seed)
    x = torch.randn(2, 30, 6, dtype=torch.float64, requires_grad=True)
    whole, last = layer(x, state)
    leaves = [x, state["mean"], state["var"], *layer.parameters()]
    for piece in x.tensor_split(sorted(set(cuts)), dim=1):
        y, state = layer(piece, state)
        outputs.append(y)
    ours = together(torch.cat(outputs, 1), state["mean"], state["var"])
    assert_same_gradients(ours, together(whole, last["mean"], last["var"]), leaves)
    assert torch.equal(state["count"], last["count"])


@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_streams(decay):
    assert_one_stream(build(decay=decay), torch.randn(2, 9, 6, dtype=torch.float64))


def worst(layer, x, state, sizes):
    exact = welford(layer, x, state or layer.init_state(len(x)))[0]
    outputs = []
    for piece in x.split(sizes, dim=1):
        y, state = layer(piece, state)
        outputs.append(y)
    assert outputs[0].dtype == torch.float32
    return (torch.cat(outputs, 1) - exact).abs().max().item()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[1000], [1] * 1000, [1, 499, 500]])
def test_float32_is_exact_at_a_large_mean_after_a_million_steps(sizes):
    layer = build(64, 4, eps=1e-5).float()
    torch.nn.init.zeros_(layer.weight)
    state = layer.init_state(2)
    state = {"count": torch.full((2,), 10**6), "mean": state["mean"] + 1000, "var": state["var"]}
    x = 1000 + torch.randn(2, 1000, 64)
    assert worst(layer, x, state, sizes) < 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_single_late_steps_still_move_the_mean():
    layer = find("norm", "timestep").cls(4, num_groups=1)
    state = {"count": torch.tensor([10**7]), "mean": torch.tensor([[1000.0]]), "var": torch.ones(1, 1)}
    x = 1001 + torch.randn(1, 2000, 4)
    whole = layer(x, state)[1]
    for step in x.split(1, dim=1):
        _, state = layer(step, state)
    torch.testing.assert_close(state["mean"], whole["mean"], rtol=0, atol=1e-8)
    assert state["mean"].item() == pytest.approx(1000 + 2e-4, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("first", [1000.0, 0.0])
def test_float32_is_exact_from_the_beginning_on(first):
    layer, x = build(64, 4, eps=1e-5).float(), 1000 + torch.randn(2, 1500, 64)
    x[:, 0] = first + torch.randn(2, 64)
    assert worst(layer, x, None, [1500]) < 2e-4


def test_a_constant_stream_is_finite_in_both_directions():
    layer = find("norm", "timestep").cls(8, num_groups=4)
    x = torch.full((1, 20, 8), 3.0, requires_grad=True)
    y, _ = layer(x)
    y.square().sum().backward()
    assert y.abs().max() < 1e-3
    assert x.grad.isfinite().all()


def test_no_step_moves_an_earlier_output():
    layer, x = build(), torch.randn(1, 9, 6, dtype=torch.float64)
    later = x.clone()
    later[:, 5] += 3
    assert torch.equal(layer(later)[0][:, :5], layer(x)[0][:, :5])
    assert not torch.isclose(layer(later)[0][:, 5:], layer(x)[0][:, 5:]).any()


def test_half_precision_is_rounded_once_and_statistics_are_not():
    layer = build(16, 4).float()
    x = (100 + torch.randn(2, 9, 16)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x)
    expected, wide = layer(x.float())
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(state["mean"], wide["mean"])
    assert layer.bfloat16()(x)[1]["mean"].dtype == layer.init_state(2)["mean"].dtype == torch.float64


def test_groups_must_divide_dim():
    with pytest.raises(ValueError, match="dim 12 is not divisible by num_groups 5"):
        find("norm", "timestep").cls(12, num_groups=5)
