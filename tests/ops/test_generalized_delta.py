"""The chunked recurrence of RWKV-7 agrees with the loop over time."""

import pytest
import torch
from torch.nn import functional as F

from archlab.ops.generalized_delta import generalized_delta, generalized_delta_reference

B, H, K, V = 2, 3, 8, 5


def inputs(num_tokens, fastest=3.0):
    """Return q, k, v, a, b and log decays down to -fastest, as RWKV-7 makes them, the same ones at each call."""
    generator = torch.Generator().manual_seed(num_tokens)

    def draw(width):
        return torch.randn(B, num_tokens, H, width, generator=generator, dtype=torch.float64)

    removed, rate = F.normalize(draw(K), dim=-1), draw(K).sigmoid()
    drawn = (draw(K), draw(K) / K, draw(V), -removed, removed * rate, -fastest * draw(K).sigmoid())
    return [x.requires_grad_() for x in drawn]


def earlier_state():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(B, H, K, V, generator=generator, dtype=torch.float64).requires_grad_()


def assert_same(ours, theirs, leaves):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    weights = [torch.randn_like(x) for x in ours]
    losses = [sum((x * w).sum() for x, w in zip(made, weights, strict=True)) for made in (ours, theirs)]
    gradients = [torch.autograd.grad(loss, leaves, materialize_grads=True) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("num_tokens", [1, 2, 7, 63, 64, 65, 150])
@pytest.mark.parametrize("fastest", [0.6, 30.0, 1e4])
def test_chunks_agree_with_the_loop(num_tokens, fastest):
    leaves = inputs(num_tokens, fastest)
    assert_same(generalized_delta(*leaves), generalized_delta_reference(*leaves), leaves)


@pytest.mark.parametrize("num_tokens", [1, 5, 130])
def test_continues_from_a_state(num_tokens):
    leaves, state = inputs(num_tokens), earlier_state()
    ours, theirs = (run(*leaves, state) for run in (generalized_delta, generalized_delta_reference))
    assert_same(ours, theirs, [*leaves, state])


def test_groups_of_chunks_agree_with_the_loop(monkeypatch):
    monkeypatch.setattr("archlab.ops._chunks.CHUNK", 2)
    monkeypatch.setattr("archlab.ops._chunk_scan.GROUP", 3)
    leaves, state = inputs(2 * 3 * 3 + 5, 0.6), earlier_state()
    ours, theirs = (run(*leaves, state) for run in (generalized_delta, generalized_delta_reference))
    assert_same(ours, theirs, [*leaves, state])


def test_the_loop_is_the_definition():
    q, k, v, a, b, log_decay = (x.detach() for x in inputs(4))
    state = earlier_state().detach()
    y, last = generalized_delta_reference(q, k, v, a, b, log_decay, state)
    S_VK = state[1, 2].T
    for t in range(4):
        decay, a_K, b_K, k_K, v_V, q_K = (x[1, t, 2] for x in (log_decay.exp(), a, b, k, v, q))
        S_VK = S_VK @ (torch.diag(decay) + torch.outer(a_K, b_K)) + torch.outer(v_V, k_K)
        torch.testing.assert_close(y[1, t, 2], S_VK @ q_K, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last[1, 2], S_VK.T, rtol=1e-12, atol=1e-12)


def test_float32_is_close():
    leaves = [x.detach() for x in inputs(700, 0.6)]
    expected = generalized_delta_reference(*leaves)
    made = generalized_delta(*(x.float() for x in leaves))
    torch.testing.assert_close([x.double() for x in made], list(expected), rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_the_state_in_float32():
    y, state = generalized_delta(*(x.detach().bfloat16() for x in inputs(9)))
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
