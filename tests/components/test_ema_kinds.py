import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import assert_one_stream, assert_same_gradients

from archlab.config.registry import find

NAMES = ["cema", "ema", "lru", "s4d"]
LOG_DECAYS = {"s4d": ("log_rate",), "lru": ("nu_log",)}
random_sizes = settings(max_examples=15, deadline=None, derandomize=True, database=None)
sizes = {
    "dim": st.integers(1, 5),
    "num_dims": st.integers(1, 5),
    "num_tokens": st.integers(1, 80),
    "seed": st.integers(0, 99),
    "carried": st.booleans(),
}


def build(name, dim=3, num_dims=4, seed=0, **knobs):
    torch.manual_seed(seed)
    layer = find("ema", name).cls(dim, num_dims=num_dims, **knobs).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def drawn(layer, num_tokens, carried):
    state = layer.init_state(2)
    if carried:
        state = {"h": torch.randn_like(state["h"]).requires_grad_()}
    dim = state["h"].shape[1]
    return torch.randn(2, num_tokens, dim, dtype=torch.float64, requires_grad=True), state


def check(name, equations, dim, num_dims, num_tokens, seed, carried):
    layer = build(name, dim, num_dims, seed)
    x, state = drawn(layer, num_tokens, carried)
    y, last = layer(x, state)
    expected = equations(layer, x, state["h"])
    leaves = [x, *layer.parameters(), *([state["h"]] if carried else [])]
    ours = torch.cat([y.flatten(), last["h"].flatten()])
    assert_same_gradients(ours, torch.cat([part.flatten() for part in expected]), leaves)


def cema(layer, x, h):
    """Megalodon's equations: each state rotates by its own multiple of the channel's angle."""
    num_dims = layer.alpha.shape[1]
    h, outputs = torch.view_as_complex(h), []
    p, shrink = layer.alpha.sigmoid()[..., 0], layer.delta.sigmoid()[..., 0]
    turn = layer.theta.sigmoid()[..., 0] * 2 * math.pi * torch.arange(1, num_dims + 1) / num_dims
    q = torch.polar(1 - p * shrink, turn)
    eta = torch.view_as_complex(layer.gamma) / math.sqrt(num_dims)
    for t in range(x.shape[1]):
        # The layer's state is the paper's divided by p.
        h = (q * (p * h) + p * x[:, t, :, None]) / p
        outputs.append((eta * p * h).sum(-1).real + layer.omega[:, 0] * x[:, t])
    return torch.stack(outputs, 1), torch.view_as_real(h)


def damped(layer, x, h):
    """Mega's equations: expand by beta, average, and project by eta."""
    h, outputs = h[..., 0], []
    alpha, delta = layer.alpha.sigmoid(), layer.delta.sigmoid()
    for t in range(x.shape[1]):
        expanded = layer.beta * x[:, t, :, None]
        # The layer's state is the paper's divided by alpha and beta.
        paper = alpha * expanded + (1 - alpha * delta) * (alpha * layer.beta * h)
        h = x[:, t, :, None] + (1 - alpha * delta) * h
        outputs.append((layer.eta * paper).sum(-1) / math.sqrt(alpha.shape[1]) + layer.omega * x[:, t])
    return torch.stack(outputs, 1), h[..., None]


def held(layer):
    """Return exp(step A) and (exp(step A) - 1) / A."""
    a = torch.complex(-layer.log_rate.exp(), layer.frequency)
    grown = torch.exp(layer.log_step.exp()[:, None] * a)
    return grown, (grown - 1) / a


def state_space(layer, x, h):
    """S4D's equations: zero-order hold, each state beside its conjugate."""
    h, outputs = torch.view_as_complex(h), []
    grown, into = held(layer)
    for t in range(x.shape[1]):
        h = grown * h + x[:, t, :, None]
        outputs.append(2 * (torch.view_as_complex(layer.read) * into * h).sum(-1).real + layer.skip * x[:, t])
    return torch.stack(outputs, 1), torch.view_as_real(h)


def recurrent_unit(layer, x, h):
    """The Linear Recurrent Unit's equations with its matrices: all states in one vector, of which B and C pick some."""
    (B, T, D), N = x.shape, layer.nu_log.shape[1]
    eigenvalues = torch.exp(torch.complex(-layer.nu_log.exp(), layer.theta_log.exp())).flatten()
    gamma, into = layer.gamma_log.exp().flatten(), torch.block_diag(*[torch.ones(N, 1, dtype=x.dtype)] * D)
    out = torch.block_diag(*torch.view_as_complex(layer.read)[:, None])
    # The layer's state is the paper's divided by gamma.
    state, outputs = gamma * torch.view_as_complex(h).flatten(1), []
    for t in range(T):
        state = eigenvalues * state + gamma * (x[:, t] @ into.T)
        outputs.append((state @ out.T).real + layer.skip * x[:, t])
    return torch.stack(outputs, 1), torch.view_as_real((state / gamma).view(B, D, N))


@pytest.mark.slow
@random_sizes
@given(**sizes)
def test_cema_agrees_with_its_equations(dim, num_dims, num_tokens, seed, carried):
    check("cema", cema, dim, num_dims, num_tokens, seed, carried)


@pytest.mark.slow
@random_sizes
@given(**sizes)
def test_ema_agrees_with_its_equations(dim, num_dims, num_tokens, seed, carried):
    check("ema", damped, dim, num_dims, num_tokens, seed, carried)


@pytest.mark.slow
@random_sizes
@given(**sizes)
def test_s4d_agrees_with_its_equations(dim, num_dims, num_tokens, seed, carried):
    check("s4d", state_space, dim, num_dims, num_tokens, seed, carried)


@pytest.mark.slow
@random_sizes
@given(**sizes)
def test_lru_agrees_with_its_equations(dim, num_dims, num_tokens, seed, carried):
    check("lru", recurrent_unit, dim, num_dims, num_tokens, seed, carried)


def test_s4d_is_the_differential_equation_with_the_input_held():
    layer = build("s4d", 1, 1)
    a, b, step = -layer.log_rate.exp().item(), layer.frequency.item(), layer.log_step.exp().item()
    flow = torch.tensor([[a, -b, 1], [b, a, 0], [0, 0, 0]], dtype=torch.float64).mul(step).matrix_exp()
    z, x = torch.zeros(2, dtype=torch.float64), torch.randn(1, 9, 1, dtype=torch.float64)
    read, expected = layer.read.detach()[0, 0], []
    for now in x[0, :, 0]:
        z = (flow @ torch.stack((z[0], z[1], now)))[:2]
        expected.append(2 * (read[0] * z[0] - read[1] * z[1]) + layer.skip.item() * now)
    torch.testing.assert_close(layer(x)[0][0, :, 0], torch.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("step", [1e-6, 1e-3])
def test_s4d_holds_short_steps_exactly_in_float32(step):
    torch.manual_seed(0)
    layer = find("ema", "s4d").cls(8, num_dims=4, dt_min=step, dt_max=step)
    weight = layer._coefficients()[1]
    exact = 2 * torch.view_as_complex(layer.double().read) * held(layer)[1]
    assert ((torch.view_as_complex(weight.double()) - exact).abs() < 1e-6 * exact.abs()).all()


@pytest.mark.parametrize("name", NAMES)
def test_streams(name):
    assert_one_stream(build(name), torch.randn(2, 70, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_batch_are_strangers(name):
    layer, x = build(name), torch.randn(3, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0][1:2], layer(x[1:2])[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [-40.0, 40.0])
def test_saturated_decays_stay_finite(name, level):
    layer = build(name).float()
    for parameter in LOG_DECAYS.get(name, ("alpha", "delta")):
        torch.nn.init.constant_(getattr(layer, parameter), level)
    x = torch.randn(1, 130, 3, requires_grad=True)
    y, state = layer(x)
    gradients = torch.autograd.grad(y.sum() + state["h"].sum(), [x, *layer.parameters()])
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("half_parameters", [False, True])
def test_half_precision_is_rounded_at_the_ends(name, half_parameters):
    layer = build(name).bfloat16().float()
    x = torch.randn(2, 70, 3).bfloat16()
    expected, wide = layer(x.float())
    layer = layer.bfloat16() if half_parameters else layer
    with torch.autocast("cpu", torch.bfloat16, enabled=not half_parameters):
        y, state = layer(x)
    assert (y.dtype, state["h"].dtype, layer.init_state(2)["h"].dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(state["h"], wide["h"])


def test_cema_begins_with_angles_spread_over_the_channels():
    torch.manual_seed(0)
    layer = find("ema", "cema").cls(64)
    expected = 64 ** (-torch.arange(64, 0, -1) / 64)
    torch.testing.assert_close(layer.theta.sigmoid().flatten().sort().values, expected, rtol=1e-5, atol=0)
    assert not torch.equal(layer.theta.flatten().sort().values, layer.theta.flatten())
    assert not layer.gamma[..., 1].any()
    assert layer.omega.abs().max() <= 1


def test_ema_begins_with_an_expansion_of_alternating_signs():
    torch.manual_seed(0)
    beta = find("ema", "ema").cls(64, num_dims=3).beta
    torch.testing.assert_close(beta.mean(0), torch.tensor([1.0, -1.0, 1.0]), rtol=0, atol=0.02)


def test_s4d_begins_with_steps_between_its_ends():
    torch.manual_seed(0)
    layer = find("ema", "s4d").cls(500, num_dims=3, dt_min=0.01, dt_max=0.2)
    step = layer.log_step.exp()
    assert step.min() >= 0.01 * (1 - 1e-6)
    assert step.max() <= 0.2 * (1 + 1e-6)
    assert step.log().mean().item() == pytest.approx(math.log(0.01 * 0.2) / 2, abs=0.1)
    torch.testing.assert_close(layer.frequency[7], torch.tensor([0, math.pi, 2 * math.pi]))


def test_s4d_may_begin_with_the_frequencies_of_hippo():
    order = torch.arange(8, dtype=torch.float64)
    scale = (2 * order[:, None] + 1).sqrt() * (2 * order + 1).sqrt()
    hippo = -(scale.tril(-1) + torch.diag(order + 1))
    normal = hippo + torch.outer((order + 0.5).sqrt(), (order + 0.5).sqrt())
    modes = torch.linalg.eigvals(normal)
    torch.testing.assert_close(modes.real, torch.full((8,), -0.5, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    layer = find("ema", "s4d").cls(3, num_dims=4, spectrum="legendre")
    torch.testing.assert_close(layer.frequency[1].double(), modes.imag.sort().values[4:], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.log_rate.exp(), torch.full((3, 4), 0.5))


def test_s4d_may_begin_with_an_inverse_law_near_the_highest_frequencies_of_hippo():
    inverse, exact = (
        find("ema", "s4d").cls(1, num_dims=32, spectrum=name).frequency[0] for name in ("inverse", "legendre")
    )
    torch.testing.assert_close(inverse[:3], exact.flip(0)[:3], rtol=0.1, atol=0)


def test_s4d_refuses_steps_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"dt_min 0.2 is above dt_max 0.1"):
        find("ema", "s4d").cls(4, dt_min=0.2)


def test_lru_begins_evenly_in_a_ring_with_states_of_size_one():
    torch.manual_seed(0)
    layer = find("ema", "lru").cls(200, num_dims=50, r_min=0.4, r_max=0.9, max_phase=1.5).double()
    radius, angle = torch.exp(-layer.nu_log.exp()), layer.theta_log.exp()
    share = ((radius**2 - 0.4**2) / (0.9**2 - 0.4**2)).flatten().sort().values
    torch.testing.assert_close(share, torch.linspace(0, 1, 10_000).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(
        angle.flatten().sort().values, torch.linspace(0, 1.5, 10_000).double(), rtol=0, atol=0.03
    )
    h = layer(torch.randn(20, 90, 200, dtype=torch.float64))[1]["h"] * layer.gamma_log.exp()[..., None]
    assert h.square().sum(-1).mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("radii", [(0.0, 1e-9), (1.0, 1.0)])
def test_lru_is_finite_at_the_ends_of_its_ring(radii):
    layer = find("ema", "lru").cls(5, num_dims=3, r_min=radii[0], r_max=radii[1])
    assert all(parameter.isfinite().all() for parameter in layer.parameters())


def test_lru_refuses_radii_in_the_wrong_order():
    with pytest.raises(ValueError, match=r"r_min 0.9 is above r_max 0.5"):
        find("ema", "lru").cls(4, r_min=0.9, r_max=0.5)


def test_no_ema_is_the_identity():
    x = torch.randn(2, 3, 4)
    assert find("ema", "none").cls(4)(x) is x
