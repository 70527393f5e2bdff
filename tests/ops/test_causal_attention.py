import pytest
import torch
from streams import assert_same_gradients

from archlab.ops.causal_attention import causal_attention, causal_attention_reference
from archlab.ops.native import causal_attention as native
from archlab.ops.native.library import unavailable_reason

OPERATION = "causal_attention"

# B, H, T, K, V: odd sizes, one step, the edges of blocks of queries and of keys, and both sizes of a block.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 37, 5, 11),
    (1, 2, 47, 16, 16),
    (1, 2, 49, 8, 40),
    (2, 1, 191, 7, 3),
    (1, 1, 193, 33, 17),
    (1, 2, 256, 64, 256),
    (1, 1, 513, 24, 24),
    (1, 2, 777, 30, 70),
]


def draw(B, H, T, K, V, dtype=torch.float32):
    """Return q, k and v as layers make them, heads after time in memory."""
    torch.manual_seed(T)
    sizes = ((B, T, H, K), (B, T, H, K), (B, T, H, V))
    return [torch.randn(size, dtype=dtype).transpose(1, 2).requires_grad_() for size in sizes]


def gradients(y, inputs):
    torch.manual_seed(0)
    return torch.autograd.grad((y * torch.randn(y.shape)).sum(), inputs)


def assert_close(ours, exact):
    """Float32 rounds little, at the size of the whole tensor."""
    assert (ours - exact).norm() <= 2e-6 * exact.norm().clamp_min(1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_agrees_with_the_definition_in_float64(shape, backend):
    inputs = draw(*shape)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    ours = causal_attention(*inputs, 0.3)
    exact = causal_attention_reference(*exact_inputs, 0.3)
    assert (ours.dtype, ours.shape) == (torch.float32, exact.shape)
    assert_close(ours, exact)
    for pair in zip(gradients(ours, inputs), gradients(exact, exact_inputs), strict=True):
        assert_close(*pair)


@pytest.mark.parametrize("shape", SHAPES)
def test_float64_is_exact(shape, backend):
    inputs = draw(*shape, torch.float64)
    ours, expected = causal_attention(*inputs, 0.3), causal_attention_reference(*inputs, 0.3)
    assert_same_gradients(ours, expected, inputs)


def test_scores_far_apart(backend):
    inputs = draw(1, 2, 300, 16, 16)
    ours = causal_attention(*inputs, 50.0)
    exact = causal_attention_reference(*(x.double() for x in inputs), 50.0)
    assert (ours - exact).norm() < 1e-4 * exact.norm()  # a score of some thousands has lost four digits
    assert all(g.isfinite().all() for g in gradients(ours, inputs))


def test_no_later_step_moves_an_earlier_one(backend):
    q, k, v = draw(1, 1, 700, 8, 8)
    before = causal_attention(q, k, v, 0.3)
    for t in (1, 48, 96, 191, 192, 600):
        later = (torch.arange(700) >= t)[:, None]
        after = causal_attention(q, torch.where(later, 9.0, k), torch.where(later, -9.0, v), 0.3)
        assert torch.equal(after[:, :, :t], before[:, :, :t])
        assert not torch.equal(after[:, :, t], before[:, :, t])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_and_infinity_propagate(which, bad, backend):
    inputs = draw(1, 1, 300, 8, 8)
    inputs[which] = torch.where((torch.arange(300) == 200)[:, None], bad, inputs[which])
    y = causal_attention(*inputs, 0.3)
    assert not y[:, :, 200].isfinite().any()


@pytest.mark.parametrize("T", [70, 600])
def test_nan_stays_in_its_sample(T, backend):
    clean = draw(9, 1, T, 8, 8)
    spoilt = [torch.where((torch.arange(9) == 3)[:, None, None, None], float("nan"), x) for x in clean]
    ours, expected = causal_attention(*spoilt, 0.3), causal_attention(*clean, 0.3)
    others = [n for n in range(9) if n != 3]
    assert torch.equal(ours[others], expected[others])
    for found, right in zip(gradients(ours, spoilt), gradients(expected, clean), strict=True):
        assert torch.equal(found[others], right[others])


def test_autocast_multiplies_in_its_own_precision(backend):
    inputs = draw(1, 2, 70, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert causal_attention(*inputs, 0.3).dtype == torch.bfloat16


def test_shared_keys(backend):
    q, k, v = draw(1, 4, 100, 8, 8)
    shared = [x[:, :2].repeat_interleave(2, 1) for x in (k, v)]
    assert_close(
        causal_attention(q, *shared, 0.3), causal_attention_reference(*(x.double() for x in (q, *shared)), 0.3)
    )


@pytest.mark.slow
def test_compiles_without_a_graph_break(backend):
    inputs = draw(1, 2, 130, 16, 8)
    compiled = torch.compile(causal_attention, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(*inputs, 0.3), causal_attention(*inputs, 0.3)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, inputs), gradients(expected, inputs))


@pytest.mark.slow
def test_custom_op_is_registered_correctly():
    if not native.is_available():
        pytest.skip(f"no C++ backends: {unavailable_reason()}")
    inputs = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in draw(1, 2, 50, 8, 12)]
    torch.library.opcheck(native._forward, (*inputs, 0.3))
