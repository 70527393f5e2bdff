import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import assert_same_gradients

from archlab.ops.diagonal_scan import CHUNK, Decay, complex_scan, diagonal_scan, diagonal_scan_reference

OPERATION = "diagonal_scan"
pytestmark = pytest.mark.usefixtures("backend")

B, D, N = 2, 3, 5
LENGTHS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 130, 200]


def draw(num_tokens, parts, carried, dtype=torch.float64):
    """Return u, log radius, angle or None, weight and state or None, all of them leaves."""
    torch.manual_seed(num_tokens)
    radius = torch.rand(D, N, dtype=dtype) * 0.9 + 0.09
    radius[0, 0], radius[-1, -1] = 0.9999, 1e-4
    angle = (torch.rand(D, N, dtype=dtype) * 2 - 1) * math.pi if parts == 2 else None
    leaves = [torch.randn(B, num_tokens, D, dtype=dtype), radius.log(), angle, torch.randn(D, N, parts, dtype=dtype)]
    leaves.append(torch.randn(B, D, N, parts, dtype=dtype) if carried else None)
    return [leaf if leaf is None else leaf.requires_grad_() for leaf in leaves]


def run(form, u, log_radius, angle, weight, state):
    return form(u, Decay(log_radius, angle), weight, state)


def plain(u, log_radius, angle, weight, state):
    """The recurrence in Python's order of time, with complex numbers where there is an angle."""
    joined = (lambda a: a[..., 0]) if angle is None else (lambda a: torch.complex(a[..., 0], a[..., 1]))
    q = log_radius.exp() if angle is None else torch.polar(log_radius.exp(), angle)
    w, h = joined(weight), torch.zeros(B, D, N, dtype=q.dtype) if state is None else joined(state)
    outputs = []
    for t in range(u.shape[1]):
        h = q * h + u[:, t, :, None]
        outputs.append((w * h).sum(-1))
    y = torch.stack(outputs, 1)
    return (y, h[..., None]) if angle is None else (y.real, torch.view_as_real(h))


def together(outputs):
    return torch.cat([part.flatten() for part in outputs])


@pytest.mark.parametrize("form", [diagonal_scan, diagonal_scan_reference])
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_agrees_with_a_plain_loop(num_tokens, parts, carried, form):
    inputs = draw(num_tokens, parts, carried)
    leaves = [leaf for leaf in inputs if leaf is not None]
    ours, expected = run(form, *inputs), plain(*inputs)
    assert [part.shape for part in ours] == [part.shape for part in expected]
    assert_same_gradients(together(ours), together(expected), leaves)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("num_tokens", [1, CHUNK + 1, 130])
def test_a_complex_input_runs_as_its_parts(num_tokens, carried):
    torch.manual_seed(num_tokens)
    log_radius, angle = (torch.randn(N, 1, dtype=torch.float64) for _ in range(2))
    leaves = [-log_radius.exp(), angle, torch.randn(B, num_tokens, N, 2), torch.randn(B, N, 2)]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    log_radius, angle, u, state = leaves
    q, h = torch.polar(log_radius.exp(), angle)[:, 0], torch.view_as_complex(state) * carried
    outputs = []
    for now in torch.view_as_complex(u).unbind(1):
        h = q * h + now
        outputs.append(h)
    ours = complex_scan(u, Decay(log_radius, angle), state if carried else None)
    expected = [torch.view_as_real(part) for part in (torch.stack(outputs, 1), h)]
    assert_same_gradients(together(ours), together(expected), leaves[: 3 + carried])


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    num_tokens=st.integers(1, 3 * CHUNK),
    parts=st.sampled_from([1, 2]),
    carried=st.booleans(),
    cuts=st.lists(st.integers(1, 2 * CHUNK), max_size=6),
)
def test_calls_cut_in_time_equal_one_call(num_tokens, parts, carried, cuts):
    u, log_radius, angle, weight, state = draw(num_tokens, parts, carried)
    whole, last = run(diagonal_scan, u, log_radius, angle, weight, state)
    ends = sorted({cut for cut in cuts if cut < num_tokens})
    outputs = []
    for piece in u.tensor_split(ends, dim=1):
        y, state = run(diagonal_scan, piece, log_radius, angle, weight, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("parts", [1, 2])
def test_gradients_flow_through_the_carried_state(parts):
    u, log_radius, angle, weight, _ = draw(150, parts, False)
    state, outputs = None, []
    for piece in u.split([70, 1, 79], dim=1):
        y, state = run(diagonal_scan, piece, log_radius, angle, weight, state)
        outputs.append(y)
    leaves = [leaf for leaf in (u, log_radius, angle, weight) if leaf is not None]
    assert_same_gradients(torch.cat(outputs, 1), run(diagonal_scan, u, log_radius, angle, weight, None)[0], leaves)


@pytest.mark.parametrize("parts", [1, 2])
def test_no_input_moves_an_earlier_output(parts):
    u, *rest = draw(2 * CHUNK + 5, parts, True)
    before = run(diagonal_scan, u, *rest)[0]
    for t in (1, CHUNK - 1, CHUNK, 2 * CHUNK + 4):
        after = run(diagonal_scan, u + 9 * (torch.arange(u.shape[1]) == t).double()[None, :, None], *rest)[0]
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.isclose(after[:, t], before[:, t]).any()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_float32_rounds_little(num_tokens, parts):
    inputs = draw(num_tokens, parts, True)
    single = [leaf if leaf is None else leaf.float() for leaf in inputs]
    for ours, expected in zip(run(diagonal_scan, *single), run(diagonal_scan, *inputs), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - expected).norm() < 1e-5 * expected.norm()


def test_a_long_constant_input_reaches_the_geometric_sum():
    num_tokens, radius = 20_000, torch.tensor([[0.5, 0.999, 1 - 1e-6]], dtype=torch.float64)
    u, log_radius = torch.ones(1, num_tokens, 1), radius.log().float()
    exact = log_radius.double().exp()
    expected = (1 - exact**num_tokens) / (1 - exact)
    y, h = diagonal_scan(u, Decay(log_radius, None), torch.ones(1, 3, 1), None)
    torch.testing.assert_close(h[0, ..., 0].double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(y[0, -1].double(), expected.sum(-1), rtol=1e-4, atol=0)


def test_slow_turning_states_stay_bounded_and_exact_over_a_long_call():
    u, _, _, weight, _ = draw(8_192, 2, False)
    log_radius = torch.full((D, N), -1e-4, dtype=torch.float64)
    angle = torch.linspace(-3, 3, D * N, dtype=torch.float64).view(D, N)
    exact, last = run(diagonal_scan, u, log_radius, angle, weight, None)
    ours, h = run(diagonal_scan, *(x.float() for x in (u, log_radius, angle, weight)), None)
    assert (ours - exact).norm() < 1e-3 * exact.norm()
    assert (h - last).norm() < 1e-3 * last.norm()


@pytest.mark.parametrize("parts", [1, 2])
def test_states_that_vanish_at_once_have_finite_gradients(parts):
    u, log_radius, angle, weight, state = draw(130, parts, True, torch.float32)
    inputs = (u, (log_radius.detach() - 200).requires_grad_(), angle, weight, state)
    leaves = [leaf for leaf in inputs if leaf is not None]
    y, h = run(diagonal_scan, *inputs)
    torch.testing.assert_close(y, u * weight[..., 0].sum(-1))
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum() + h.sum(), leaves))


@pytest.mark.parametrize("num_tokens", [1, 70])
def test_half_precision_and_autocast_leave_the_recurrence_in_float32(num_tokens):
    u, *rest = draw(num_tokens, 2, True, torch.float32)
    half = u.detach().bfloat16()
    expected = run(diagonal_scan, half.float(), *rest)
    with torch.autocast("cpu", torch.bfloat16):
        ours = run(diagonal_scan, half, *rest)
    assert all(torch.equal(*pair) for pair in zip(ours, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("num_tokens", [1, 130])
def test_compiles_without_a_graph_break(num_tokens, parts):
    inputs = draw(num_tokens, parts, True)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    leaves = [leaf for leaf in inputs if leaf is not None]
    assert_same_gradients(together(compiled(diagonal_scan, *inputs)), together(run(diagonal_scan, *inputs)), leaves)


def test_shapes_without_memory():
    inputs = [leaf if leaf is None else leaf.to("meta") for leaf in draw(130, 2, True)]
    y, h = run(diagonal_scan, *inputs)
    assert (y.shape, h.shape, y.device.type) == ((B, 130, D), (B, D, N, 2), "meta")
