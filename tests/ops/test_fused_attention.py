"""Attention by torch's kernels for GPUs: which heads they take, what they return, and that it is so at every run."""

import pytest
import torch
from streams import assert_same_gradients
from torch._subclasses.fake_tensor import FakeTensorMode

from archlab.modeling.step_recorder import StepRecorder
from archlab.ops.causal_attention import causal_attention, causal_attention_reference
from archlab.ops.fused_attention import fits_a_kernel, fused_attention
from archlab.ops.gpu_attention import causal_attention as gpu_attention
from archlab.ops.gpu_attention import register_gpu_attention
from archlab.runtime.determinism import deterministic_algorithms

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU, for which these kernels are")
# B, H, T, K, V, dtype: FlashAttention, the memory-efficient kernel, and that with values of another width.
CASES = [
    (2, 3, 37, 64, 64, torch.bfloat16),
    (1, 2, 300, 256, 256, torch.float16),
    (2, 3, 45, 32, 32, torch.float32),
    (1, 2, 130, 64, 128, torch.bfloat16),
    (1, 1, 1, 8, 8, torch.bfloat16),
]


def draw(B, H, T, K, V, dtype, device="cuda"):
    torch.manual_seed(T)
    sizes = ((B, T, H, K), (B, T, H, K), (B, T, H, V))
    return [torch.randn(size).to(device, dtype).transpose(1, 2).requires_grad_() for size in sizes]


@pytest.mark.parametrize(
    ("K", "V", "dtype", "fits"),
    [
        (128, 128, torch.float32, True),
        (100, 100, torch.float32, True),
        (136, 136, torch.float32, False),
        (256, 256, torch.bfloat16, True),
        (264, 264, torch.bfloat16, False),
        (192, 128, torch.bfloat16, False),
        (64, 128, torch.bfloat16, True),
        (100, 100, torch.bfloat16, False),
        (256, 2048, torch.bfloat16, False),
        (8, 8, torch.float64, False),
    ],
)
def test_torchs_kernels_get_the_heads_that_they_are_fast_with(K, V, dtype, fits):
    assert fits_a_kernel(K, V, dtype) == fits
    with FakeTensorMode(), StepRecorder() as recorder:
        inputs = draw(1, 2, 20, K, V, dtype, "cpu")
        assert (gpu_attention(*inputs, 0.3) is NotImplemented) == fits
        with deterministic_algorithms():
            gpu_attention(*inputs, 0.3)
    assert ("archlab.fused_attention" in {op.name for op in recorder.ops()}) == fits


def test_autocast_multiplies_in_its_own_precision():
    with FakeTensorMode(), deterministic_algorithms(), torch.autocast("cpu", torch.bfloat16):
        for width in (16, 300):
            assert gpu_attention(*draw(1, 2, 70, 16, width, torch.float32, "cpu"), 0.3).dtype == torch.bfloat16


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_trace_without_values_has_its_shapes_and_costs(case):
    B, H, T, K, V, _ = case
    with FakeTensorMode(), StepRecorder() as recorder:
        inputs = draw(*case, "cpu")
        y = fused_attention(*inputs, 0.3)
        gradients = torch.autograd.grad(y.sum(), inputs)
    assert (y.shape, y.dtype) == ((B, H, T, V), case[-1])
    assert [(g.shape, g.stride()) for g in gradients] == [(x.shape, x.stride()) for x in inputs]
    costs = {op.name: op for op in recorder.ops()}
    forward, backward = costs["archlab.fused_attention"], costs["archlab.fused_attention_back"]
    pairs = B * H * T * T
    assert (forward.flops, backward.flops) == (2 * pairs * (K + V), 2 * pairs * (3 * K + 2 * V))
    assert forward.skipped_flops == forward.flops // 2  # the masked half, which takes no time


@needs_gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_definition_to_its_rounding(case):
    inputs = draw(*case)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    ours, exact = fused_attention(*inputs, 0.3), causal_attention_reference(*exact_inputs, 0.3)
    weights = torch.linspace(-1, 1, exact.numel(), dtype=torch.float64, device="cuda").view_as(exact)
    found = (ours, *torch.autograd.grad((ours * weights.to(ours.dtype)).sum(), inputs))
    right = (exact, *torch.autograd.grad((exact * weights).sum(), exact_inputs))
    for one, other in zip(found, right, strict=True):
        tolerance = 2e-2 if one.dtype != torch.float32 else 1e-4
        assert (one - other).norm() <= tolerance * other.norm().clamp_min(1e-3)


@needs_gpu
@pytest.mark.parametrize("case", [(2, 16, 4096, 64, 64, torch.bfloat16), (2, 8, 4096, 64, 64, torch.float32)], ids=str)
def test_gradients_are_the_same_at_every_run(case):
    register_gpu_attention()
    inputs = draw(*case)
    with deterministic_algorithms():
        runs = [torch.autograd.grad(causal_attention(*inputs, 0.1).sum(), inputs) for _ in range(6)]
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_a_compiled_model_calls_the_same(case):
    inputs = draw(*case)
    compiled = torch.compile(lambda *qkv: fused_attention(*(x * 1 for x in qkv), 0.3) * 1, fullgraph=True)
    with deterministic_algorithms():
        assert_same_gradients(compiled(*inputs), fused_attention(*inputs, 0.3), inputs)


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_the_operation_is_registered_correctly(case):
    from archlab.ops import fused_attention as module

    torch.library.opcheck(module._forward, (*draw(*case), 0.3))
