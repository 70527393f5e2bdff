import pytest
import torch
from streams import assert_same_gradients

from archlab.ops import dispatch
from archlab.ops.timestep_norm import timestep_norm, timestep_norm_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(1, 6, 2), (2, 6, 2), (7, 12, 3), (17, 5, 1), (37, 6, 6)]


@pytest.fixture(autouse=True, params=["pytorch", "triton"])
def backend(request, monkeypatch):
    """Run every test with PyTorch and with the backend, in tiles of a few steps."""
    monkeypatch.setattr(dispatch, "_BACKENDS", {})
    if request.param == "triton":
        pytest.importorskip("triton", reason="triton is not installed")
        from archlab.ops.triton import timestep_norm as form

        monkeypatch.setattr(form, "TILE", 16)
        dispatch.register_backend("timestep_norm", DEVICE, form.timestep_norm)


def draw(num_tokens, dim, groups, count, dtype=torch.float64, mean=5.0):
    """Return x, scale, bias, count, and the carried mean and variance."""
    torch.manual_seed(num_tokens)
    x, scale, bias = torch.randn(2, num_tokens, dim) * 2 + mean, torch.randn(dim), torch.randn(dim)
    carried = torch.randn(2, groups) + mean, torch.rand(2, groups) + 1
    x, scale, bias = (a.to(DEVICE, dtype).requires_grad_() for a in (x, scale, bias))
    steps = torch.full((2,), count, device=DEVICE)
    return x, scale, bias, steps, *(a.to(DEVICE, torch.float64).requires_grad_() for a in carried)


def run(form, x, scale, bias, count, mean, var):
    return form(x, scale, bias, count, mean, var, 1e-5)


def together(outputs):
    return torch.cat([part.flatten() for part in outputs])


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 9])
@pytest.mark.parametrize("size", SIZES)
def test_agrees_with_the_reference_and_so_do_its_gradients(size, count):
    inputs = draw(*size, count)
    ours, reference = together(run(timestep_norm, *inputs)), together(run(timestep_norm_reference, *inputs))
    leaves = [a for a in inputs if a.requires_grad]
    assert_same_gradients(ours, reference, leaves if count else leaves[:3])


@pytest.mark.parametrize("count", [0, 9])
@pytest.mark.parametrize("size", SIZES)
def test_decayed_statistics_agree_with_the_reference_and_so_do_their_gradients(size, count):
    inputs = draw(*size, count)
    forms = (form(*inputs, 1e-5, 0.7) for form in (timestep_norm, timestep_norm_reference))
    leaves = [a for a in inputs if a.requires_grad]
    assert_same_gradients(*map(together, forms), leaves if count else leaves[:3])


@pytest.mark.slow
def test_calls_cut_in_time_equal_one_call():
    x, scale, bias, count, mean, var = draw(37, 6, 2, 0)
    whole = run(timestep_norm, x, scale, bias, count, mean, var)
    outputs = []
    for piece in x.split([20, 1, 16], dim=1):
        y, mean, var = run(timestep_norm, piece, scale, bias, count, mean, var)
        count = count + piece.shape[1]
        outputs.append(y)
    torch.testing.assert_close((torch.cat(outputs, 1), mean, var), whole, rtol=1e-10, atol=1e-10)


def test_float32_stays_exact_far_from_zero_and_late():
    x, scale, bias, count, mean, var = draw(37, 6, 2, 1_000_000, torch.float32, mean=2000.0)
    exact = run(timestep_norm_reference, *(a.double() for a in (x, scale, bias)), count, mean, var)
    for ours, expected in zip(run(timestep_norm, x, scale, bias, count, mean, var), exact, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=2e-4)


def test_half_precision_is_normalized_in_float32():
    x, *rest = draw(17, 6, 2, 0, torch.float32)
    half = x.detach().bfloat16()
    y, *_ = run(timestep_norm, half, *rest)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), run(timestep_norm, half.float(), *rest)[0], rtol=1e-2, atol=1e-2)


def test_a_constant_stream_has_finite_gradients():
    x, scale, bias, count, mean, var = draw(17, 6, 2, 0, torch.float32)
    flat = torch.full_like(x, 3.0).requires_grad_()
    y, *_ = run(timestep_norm, flat, scale, bias, count, mean, var)
    torch.testing.assert_close(y, bias.expand_as(y))
    assert torch.autograd.grad(y.square().sum(), flat)[0].isfinite().all()


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    inputs = draw(17, 6, 2, 9)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    leaves = [a for a in inputs if a.requires_grad]
    assert_same_gradients(together(compiled(timestep_norm, *inputs)), together(run(timestep_norm, *inputs)), leaves)


@pytest.mark.slow
def test_custom_op_is_registered_correctly():
    pytest.importorskip("triton", reason="triton is not installed")
    from archlab.ops.triton import timestep_norm as form

    assert form
    torch.library.opcheck(torch.ops.archlab.triton_timestep_norm.default, (*draw(5, 6, 2, 3), 1e-5))
