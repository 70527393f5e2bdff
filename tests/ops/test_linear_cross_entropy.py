import pytest
import torch
from streams import assert_same_gradients

from archlab.ops import linear_cross_entropy as module
from archlab.ops.linear_cross_entropy import IGNORED, linear_cross_entropy, linear_cross_entropy_reference

D, V = 5, 11


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Let a few tokens fill several chunks, the last one in part."""
    monkeypatch.setattr(module, "MAX_CHUNK_LOGITS", 3 * V)
    monkeypatch.setattr(module, "MIN_CHUNK_TOKENS", 1)


def draw(num_tokens, dtype=torch.float64):
    torch.manual_seed(num_tokens)
    x, weight = torch.randn(num_tokens, D, dtype=dtype), torch.randn(V, D, dtype=dtype)
    target = torch.randint(V, (num_tokens,))
    target[1::3] = IGNORED
    return x.requires_grad_(), weight.requires_grad_(), target


@pytest.mark.parametrize("soft_cap", [0.0, 1.5])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 20])
def test_equals_the_loss_of_all_scores(num_tokens, soft_cap):
    x, weight, target = draw(num_tokens)
    expected = linear_cross_entropy_reference(x, weight, target, soft_cap)
    assert_same_gradients(linear_cross_entropy(x, weight, target, soft_cap), expected, [x, weight])


def test_a_cap_bounds_the_logits_in_half_precision_too():
    x, weight, target = draw(40, torch.float32)
    exact = linear_cross_entropy(x, weight, target, 1.5)
    with torch.autocast("cpu", torch.bfloat16):
        half = linear_cross_entropy(x, weight, target, 1.5)
    torch.testing.assert_close(half, exact, rtol=1e-2, atol=0)
    for ours, theirs in zip(*(torch.autograd.grad(loss, [x, weight]) for loss in (half, exact)), strict=True):
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()
    assert not torch.isclose(exact, linear_cross_entropy(x, weight, target))


def test_a_scaled_loss_has_scaled_gradients():
    x, weight, target = draw(7)
    ours, reference = 3 * linear_cross_entropy(x, weight, target), 3 * linear_cross_entropy_reference(x, weight, target)
    assert_same_gradients(ours, reference, [x, weight])


def test_large_scores_stay_finite():
    x, weight, target = draw(7, torch.float32)
    loss = linear_cross_entropy(1e4 * x, weight, target)
    torch.testing.assert_close(loss, linear_cross_entropy_reference(1e4 * x, weight, target))
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [x, weight]))


def test_nothing_asked_adds_nothing():
    x, weight, target = draw(4)
    target[:] = IGNORED
    loss = linear_cross_entropy(x, weight, target)
    assert loss == linear_cross_entropy_reference(x, weight, target) == 0
    assert not any(g.any() for g in torch.autograd.grad(loss, [x, weight]))


def test_a_factor_of_the_loss_is_not_rounded_to_half_precision():
    x, weight, target = (leaf.detach() for leaf in draw(40, torch.bfloat16))
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    whole, third = (torch.autograd.grad(linear_cross_entropy(*leaves, target) * f, leaves) for f in (1, 1 / 3))
    for ours, plain in zip(third, whole, strict=True):
        ratio = float(ours.float().square().sum().sqrt() / plain.float().square().sum().sqrt())
        assert ratio == pytest.approx(1 / 3, rel=5e-4), "1 / 3 in bfloat16 is 0.2% off"


def test_autocast_multiplies_in_its_type_and_adds_up_in_float32():
    x, weight, target = draw(40, torch.float32)
    exact = linear_cross_entropy(x, weight, target)
    with torch.autocast("cpu", torch.bfloat16):
        half, reference = linear_cross_entropy(x, weight, target), linear_cross_entropy_reference(x, weight, target)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, reference, rtol=1e-6, atol=0)
    for ours, theirs in zip(*(torch.autograd.grad(loss, [x, weight]) for loss in (half, exact)), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()


def test_no_more_scores_are_held_than_a_part(monkeypatch):
    seen = []
    plain = module.logit_gradients
    monkeypatch.setattr(module, "logit_gradients", lambda scores, t: (seen.append(scores.shape), plain(scores, t))[1])
    linear_cross_entropy(*draw(8))
    assert seen == [(3, V), (3, V), (2, V)]


@pytest.mark.slow
def test_custom_op_is_registered_correctly():
    torch.library.opcheck(torch.ops.archlab.linear_cross_entropy.default, (*draw(5), 0.7))


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    x, weight, target = draw(7)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    assert_same_gradients(compiled(x, weight, target), linear_cross_entropy(x, weight, target), [x, weight])
