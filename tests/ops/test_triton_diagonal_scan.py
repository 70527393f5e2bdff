import math

import pytest
import torch
from streams import assert_same_gradients

from archlab.ops.diagonal_scan import Decay, diagonal_scan_reference

pytest.importorskip("triton", reason="triton is not installed")

from archlab.ops.triton import diagonal_scan as triton_form

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N = 3
# Batch, time, channels: a tile is of 8 steps and a program of 2 channels. Less than a tile, its edges, and three tiles
# of two programs a sample. The interpreter takes a second for 50 steps of a program.
SIZES = [(1, 2, 1), (1, 7, 1), (1, 8, 1), (1, 9, 1), (2, 19, 3)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Fill several tiles, rows, programs and groups of states with a few steps, channels and states."""
    monkeypatch.setattr(triton_form, "ROWS", 2)
    monkeypatch.setattr(triton_form, "CHANNELS", 2)
    monkeypatch.setattr(triton_form, "MAX_STEPS", 4)
    # Two real states at a time, or one or two complex ones: the last group of real ones is not full.
    monkeypatch.setattr(triton_form, "PARTS", 4)
    monkeypatch.setattr(triton_form, "PARTS_BACK", 2)


def draw(size, parts, dtype=torch.float64):
    """Return u, log radius, angle or None, weight and state, all of them leaves."""
    B, num_tokens, D = size
    torch.manual_seed(num_tokens)
    radius = torch.rand(D, N, dtype=dtype) * 0.9 + 0.09
    radius[0, 0], radius[-1, -1] = 0.9999, 1e-4
    angle = (torch.rand(D, N, dtype=dtype) * 2 - 1) * math.pi if parts == 2 else None
    leaves = [torch.randn(B, num_tokens, D, dtype=dtype), radius.log(), angle, torch.randn(D, N, parts, dtype=dtype)]
    leaves.append(torch.randn(B, D, N, parts, dtype=dtype))
    return [leaf if leaf is None else leaf.to(DEVICE).requires_grad_() for leaf in leaves]


def run(u, log_radius, angle, weight, state):
    return triton_form.diagonal_scan(u, *Decay(log_radius, angle).split_near_integer(), weight, state)


def reference(u, log_radius, angle, weight, state):
    return diagonal_scan_reference(u, Decay(log_radius, angle), weight, state)


def together(outputs):
    return torch.cat([part.flatten() for part in outputs])


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_reference_and_so_do_its_gradients(size, parts):
    inputs = draw(size, parts)
    leaves = [leaf for leaf in inputs if leaf is not None]
    assert_same_gradients(together(run(*inputs)), together(reference(*inputs)), leaves)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_calls_cut_in_time_equal_one_call(parts):
    u, *rest, state = draw((1, 19, 1), parts)
    outputs = []
    for piece in u.split([10, 2, 7], dim=1):
        y, state = run(piece, *rest, state)
        outputs.append(y)
    expected = run(u, *rest, draw((1, 19, 1), parts)[-1])
    for ours, whole in zip((torch.cat(outputs, 1), state), expected, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_float32_rounds_little(parts):
    inputs = draw((1, 37, 2), parts)
    single = [leaf if leaf is None else leaf.detach().float().requires_grad_() for leaf in inputs]
    leaves, exact_leaves = ([leaf for leaf in some if leaf is not None] for some in (single, inputs))
    ours, exact = together(run(*single)), together(reference(*inputs))
    assert (ours - exact).norm() < 1e-5 * exact.norm()
    gradients = (
        torch.autograd.grad(ours.square().sum(), leaves),
        torch.autograd.grad(exact.square().sum(), exact_leaves),
    )
    for gradient, expected in zip(*gradients, strict=True):
        assert (gradient - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_a_factor_next_to_one_is_kept(parts, monkeypatch):
    monkeypatch.setattr(triton_form, "ROWS", 32)  # the interpreter computes rows side by side as well
    u, _, angle, weight, state = draw((1, 300, 1), parts, torch.float32)
    log_radius = torch.full((1, N), -1e-7, device=DEVICE)
    inputs = (u, log_radius, None if angle is None else angle * 1e-7, weight, state)
    _, last = run(*inputs)
    _, exact = reference(*(x if x is None else x.detach().double() for x in inputs))
    torch.testing.assert_close(last.double(), exact, rtol=2e-6, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_custom_op_is_registered_correctly(parts):
    u, log_radius, angle, weight, state = draw((1, 3, 1), parts)
    near, rest = Decay(log_radius, angle).split_near_integer()
    inputs = (u, near, rest.detach().requires_grad_(), weight, state)
    torch.library.opcheck(torch.ops.archlab.triton_diagonal_scan.default, inputs)


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    inputs = draw((1, 3, 1), 2)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    leaves = [leaf for leaf in inputs if leaf is not None]
    assert_same_gradients(together(compiled(*inputs)), together(run(*inputs)), leaves)
