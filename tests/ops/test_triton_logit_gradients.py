import pytest
import torch
from streams import assert_same_gradients

from archlab.ops import dispatch, linear_cross_entropy
from archlab.ops.linear_cross_entropy import IGNORED

pytest.importorskip("triton", reason="triton is not installed")

from archlab.ops.triton import logit_gradients as triton_form

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(num_words, dtype=torch.float64):
    torch.manual_seed(num_words)
    target = torch.randint(num_words, (6,), device=DEVICE)
    target[2] = IGNORED
    return torch.randn(6, num_words, dtype=dtype, device=DEVICE) * 5, target


@pytest.mark.parametrize("num_words", [1, 2, 16, 17, 50])
def test_agrees_with_the_pytorch_implementation(num_words, monkeypatch):
    monkeypatch.setattr(triton_form, "MAX_WIDTH", 16)
    scores, target = draw(num_words)
    expected = linear_cross_entropy.logit_gradients(scores, target)
    torch.testing.assert_close(triton_form.logit_gradients(scores.clone(), target), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounds_as_its_numbers_do(dtype):
    scores, target = draw(50, dtype)
    loss, gradient = triton_form.logit_gradients(scores.clone(), target)
    expected, exact = linear_cross_entropy.logit_gradients(scores.double(), target)
    assert (loss.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    assert (gradient - exact).norm() < 2 * torch.finfo(dtype).eps * exact.norm()


def test_scores_of_no_chance_and_large_ones_stay_finite():
    scores, target = draw(50, torch.float32)
    scores[:, :20], target[:] = float("-inf"), 30
    scores[:, 25] = 3e4
    found, expected = (
        triton_form.logit_gradients(scores.clone(), target),
        linear_cross_entropy.logit_gradients(scores, target),
    )
    torch.testing.assert_close(found, expected)


def test_the_loss_uses_the_backend(monkeypatch):
    torch.manual_seed(0)
    x, weight = (torch.randn(n, 4, dtype=torch.float64, device=DEVICE, requires_grad=True) for n in (6, 50))
    _, target = draw(50)
    monkeypatch.setattr(dispatch, "_BACKENDS", {})
    dispatch.register_backend("logit_gradients", DEVICE, triton_form.logit_gradients)
    reference = linear_cross_entropy.linear_cross_entropy_reference(x, weight, target)
    assert_same_gradients(linear_cross_entropy.linear_cross_entropy(x, weight, target), reference, [x, weight])
