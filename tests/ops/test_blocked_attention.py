"""Attention by blocks of plain products, which GPUs compute with where heads are wide, against the definition."""

import pytest
import torch
from streams import assert_same_gradients

from archlab.modeling.step_recorder import StepRecorder
from archlab.ops import blocked_attention as blocked
from archlab.ops.causal_attention import causal_attention_reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# B, H, T, K, V: one step, fewer steps than blocks, odd sizes, blocks that do not divide the time.
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 3, 5, 11), (1, 2, 37, 8, 40), (2, 1, 191, 7, 3), (1, 2, 513, 32, 256)]


def draw(B, H, T, K, V, dtype=torch.float64):
    torch.manual_seed(T)
    sizes = ((B, T, H, K), (B, T, H, K), (B, T, H, V))
    return [torch.randn(size).to(DEVICE, dtype).transpose(1, 2).requires_grad_() for size in sizes]


@pytest.mark.parametrize("shape", SHAPES)
def test_float64_is_exact(shape):
    inputs = draw(*shape)
    ours, expected = blocked.blocked_attention(*inputs, 0.3), causal_attention_reference(*inputs, 0.3)
    assert_same_gradients(ours, expected, inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_half_precision_is_rounded_no_more_than_its_products(shape, dtype, tolerance):
    inputs = draw(*shape, dtype)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    ours, exact = blocked.blocked_attention(*inputs, 0.3), causal_attention_reference(*exact_inputs, 0.3)
    weights = torch.linspace(-1, 1, exact.numel(), dtype=torch.float64, device=DEVICE).view_as(exact)
    found = (ours, *torch.autograd.grad((ours * weights.to(dtype)).sum(), inputs))
    right = (exact, *torch.autograd.grad((exact * weights).sum(), exact_inputs))
    for one, other in zip(found, right, strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() <= tolerance * other.norm().clamp_min(1e-3)


def test_a_block_has_no_more_weights_than_it_may(monkeypatch):
    monkeypatch.setattr(blocked, "MIN_BLOCK_ROWS", 8)
    monkeypatch.setattr(blocked, "MAX_BLOCK_WEIGHTS", 2 * 100 * 16)
    inputs = draw(1, 2, 100, 8, 8)
    assert blocked._blocks(inputs[0].flatten(0, 1))[0] == (0, 16)
    ours, expected = blocked.blocked_attention(*inputs, 0.3), causal_attention_reference(*inputs, 0.3)
    assert_same_gradients(ours, expected, inputs)


def test_a_trace_without_values_has_its_shapes_and_costs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), StepRecorder() as recorder:
        inputs = [torch.empty(2, 3, 30, width, dtype=torch.bfloat16, requires_grad=True) for width in (16, 16, 24)]
        y = blocked.blocked_attention(*inputs, 0.3)
        gradients = torch.autograd.grad(y.sum(), inputs)
    assert (y.shape, y.dtype) == ((2, 3, 30, 24), torch.bfloat16)
    assert [g.shape for g in gradients] == [x.shape for x in inputs]
    costs = {op.name: op for op in recorder.ops()}
    forward, backward = costs["archlab.blocked_attention"], costs["archlab.blocked_attention_back"]
    pairs = 2 * 3 * 30 * 30
    assert (forward.flops, backward.flops) == (2 * pairs * (16 + 24), 2 * pairs * (3 * 16 + 2 * 24))
    assert forward.skipped_flops == forward.flops // 2


@pytest.mark.slow
def test_it_compiles_without_a_graph_break():
    inputs = draw(1, 2, 130, 16, 8)
    compiled = torch.compile(blocked.blocked_attention, fullgraph=True, backend="aot_eager")
    assert_same_gradients(compiled(*inputs, 0.3), blocked.blocked_attention(*inputs, 0.3), inputs)


@pytest.mark.slow
def test_the_operation_is_registered_correctly():
    inputs = [x.detach().flatten(0, 1).requires_grad_() for x in draw(1, 2, 50, 8, 12)]
    torch.library.opcheck(blocked._forward, (*inputs, 0.3))
