import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import assert_one_stream, assert_same_gradients

from archlab.config.registry import find

EPS = 1e-3


def build(dim=6, num_groups=2, eps=EPS):
    torch.manual_seed(0)
    layer = find("norm", "timestep").cls(dim, num_groups=num_groups, eps=eps).double()
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


def test_what_stands_before_the_first_step_has_no_weight():
    layer, x = build(), torch.randn(2, 5, 6, dtype=torch.float64)
    state = carried((0, 0))
    y, _ = layer(x, state)
    torch.testing.assert_close(y, layer(x)[0])
    assert not any(g.any() for g in torch.autograd.grad(y.square().sum(), [state["mean"], state["var"]]))


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(cuts=st.lists(st.integers(1, 29), max_size=5), seed=st.integers(0, 99))
def test_calls_cut_in_time_equal_one_call_and_its_gradients(cuts, seed):
    layer, state, outputs = build(), carried((0, 7)), []
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


def test_streams():
    assert_one_stream(build(), torch.randn(2, 9, 6, dtype=torch.float64))


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
