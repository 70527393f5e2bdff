"""The chunked WKV operator of RWKV-4 agrees with the loop over time and with the equation of the paper."""

import pytest
import torch

from archlab.ops.wkv import CHUNK, WKVState, init_wkv_state, wkv, wkv_reference

D = 5


def inputs(num_tokens, strength=1.0, dtype=torch.float64):
    """Return keys, values, the log of a decay, and a bonus, the same ones at each call."""
    generator = torch.Generator().manual_seed(num_tokens)
    k, v = (torch.randn(2, num_tokens, D, generator=generator, dtype=dtype) for _ in range(2))
    log_decay, bonus = (torch.randn(D, generator=generator, dtype=dtype) for _ in range(2))
    return [x.requires_grad_() for x in (strength * k, v, -(strength * log_decay).exp(), bonus)]


def earlier_sums(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    num, den, peak = (torch.randn(2, D, generator=generator, dtype=dtype) for _ in range(3))
    return WKVState(num, den.square() + 0.1, peak)


def as_written(k, v, log_decay, bonus):
    """Every average as a quotient of two sums over all earlier tokens, eq. 16."""
    outputs = []
    for t in range(k.shape[1]):
        weights = torch.cat((k[:, :t] + torch.arange(t - 1, -1, -1)[:, None] * log_decay, k[:, t : t + 1] + bonus), 1)
        outputs.append((weights.exp() * v[:, : t + 1]).sum(1) / weights.exp().sum(1))
    return torch.stack(outputs, 1)


def assert_same(ours, theirs, leaves):
    (y, sums), (expected, expected_sums) = ours, theirs
    torch.testing.assert_close((y, *sums), (expected, *expected_sums), rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(y)
    losses = [(out * weights).sum() + last.num.sum() + last.den.sum() for out, last in (ours, theirs)]
    gradients = [torch.autograd.grad(loss, leaves, materialize_grads=True) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_tokens", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 7 * CHUNK + 3])
@pytest.mark.parametrize("sums", [None, earlier_sums()], ids=["fresh", "continued"])
def test_chunks_agree_with_the_loop(num_tokens, sums):
    leaves = inputs(num_tokens)
    assert_same(wkv(*leaves, sums), wkv_reference(*leaves, sums), leaves)


@pytest.mark.parametrize("run", [wkv, wkv_reference])
def test_agrees_with_equation_16(run):
    leaves = inputs(2 * CHUNK + 3)
    y, expected = run(*leaves)[0], as_written(*leaves)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(y)
    gradients = [torch.autograd.grad((out * weights).sum(), leaves) for out in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_gradients_flow_through_the_sums_between_two_calls():
    leaves, cut = inputs(2 * CHUNK + 5), CHUNK + 2
    k, v, *rest = leaves
    first, sums = wkv(k[:, :cut], v[:, :cut], *rest)
    second, last = wkv(k[:, cut:], v[:, cut:], *rest, sums)
    assert_same((torch.cat((first, second), 1), last), wkv(*leaves), leaves)


@pytest.mark.parametrize("strength", [30.0, 3e3])
def test_keys_and_decays_of_any_size_stay_finite_in_float32(strength):
    k, v, _, bonus = (x.detach() for x in inputs(5 * CHUNK))
    given = (strength * k, v, -torch.logspace(-6, 6, D, dtype=k.dtype), bonus)
    leaves = [x.float().requires_grad_() for x in given]
    y, _ = wkv(*leaves)
    torch.testing.assert_close(y.double(), wkv_reference(*(x.double() for x in leaves))[0], rtol=1e-3, atol=1e-3)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), leaves))


def test_float32_is_close():
    single = [x.detach().float() for x in inputs(200)]
    expected, _ = wkv_reference(*(x.double() for x in single))
    torch.testing.assert_close(wkv(*single)[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_keeps_sums_in_float32():
    k, v, log_decay, bonus = (x.detach().bfloat16() for x in inputs(9))
    y, sums = wkv(k, v, log_decay, bonus, init_wkv_state(k[:, 0]))
    assert y.dtype == torch.bfloat16
    assert {x.dtype for x in sums} == {torch.float32}
