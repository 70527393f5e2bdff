import pytest
import torch
from torch.nn import functional as F

from archlab.ops import _chunk_scan
from archlab.ops.delta_rule import delta_product, delta_rule

B, H, K, V = 2, 3, 4, 5


def drawn(num_tokens, strongest, dtype=torch.float64):
    """Return inputs with keys of length one, corrections up to twice the error, and decays of all strengths."""
    torch.manual_seed(0)
    log_decay = None if strongest is None else -strongest * torch.rand(B, num_tokens, H, dtype=dtype) ** 4
    inputs = [
        torch.randn(B, num_tokens, H, K, dtype=dtype),
        F.normalize(torch.randn(B, num_tokens, H, K, dtype=dtype), dim=-1),
        torch.randn(B, num_tokens, H, V, dtype=dtype),
        2 * torch.rand(B, num_tokens, H, dtype=dtype),
        log_decay if log_decay is None else log_decay.masked_fill(log_decay > -1e-3, 0),
        torch.randn(B, H, K, V, dtype=dtype),
    ]
    return [x if x is None else x.requires_grad_() for x in inputs]


def loop(q, k, v, beta, log_decay, state):
    decay = torch.ones_like(beta) if log_decay is None else log_decay.exp()
    decay = decay if decay.dim() == 4 else decay[..., None]
    outputs = []
    for t in range(q.shape[1]):
        forget = torch.eye(K, dtype=q.dtype) - beta[:, t, :, None, None] * torch.einsum(
            "bhk,bhj->bhkj", k[:, t], k[:, t]
        )
        added = beta[:, t, :, None, None] * torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        state = forget @ (decay[:, t, ..., None] * state) + added
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1), state


def assert_same(ours, theirs, leaves):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    weights = [torch.randn_like(part) for part in theirs]
    gradients = [
        torch.autograd.grad(sum((part * weight).sum() for part, weight in zip(both, weights, strict=True)), leaves)
        for both in (ours, theirs)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("strongest", [None, 0.0, 0.1, 50.0])
@pytest.mark.parametrize("num_tokens", [1, 2, 13, 64, 131])
def test_agrees_with_a_loop(num_tokens, strongest):
    inputs = drawn(num_tokens, strongest)
    assert_same(delta_rule(*inputs), loop(*inputs), [x for x in inputs if x is not None])


def with_channels(inputs, strongest):
    """Replace the decay of each head by one of each channel of its keys."""
    *others, decay, state = inputs
    torch.manual_seed(1)
    per_channel = -strongest * torch.rand(*others[0].shape, dtype=decay.dtype) ** 4
    return [*others, per_channel.masked_fill(per_channel > -1e-3, 0).requires_grad_(), state]


@pytest.mark.parametrize("strongest", [0.0, 0.1, 50.0])
@pytest.mark.parametrize("num_tokens", [1, 2, 13, 64, 131])
def test_decays_of_channels_agree_with_a_loop(num_tokens, strongest):
    inputs = with_channels(drawn(num_tokens, strongest), strongest)
    assert_same(delta_rule(*inputs), loop(*inputs), inputs)


def loop_over_corrections(q, k, v, beta, log_decay, state):
    outputs = []
    for t in range(q.shape[1]):
        state = state if log_decay is None else log_decay[:, t, :, None, None].exp() * state
        for n in range(k.shape[2]):
            one = (x[:, t, n, None] for x in (k, v, beta))
            y, state = loop(q[:, t, None], *one, None, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize("strongest", [None, 0.1, 50.0])
@pytest.mark.parametrize(("num_tokens", "num_corrections"), [(1, 1), (1, 3), (5, 1), (13, 2), (75, 3)])
def test_products_agree_with_a_loop(num_tokens, num_corrections, strongest):
    q, k, v, beta, _, state = drawn(num_tokens * num_corrections, None)
    log_decay = drawn(num_tokens, strongest)[4]
    k, v, beta = (x.unflatten(1, (num_tokens, num_corrections)) for x in (k, v, beta))
    inputs = [q[:, :num_tokens], k, v, beta, log_decay, state]
    assert_same(delta_product(*inputs), loop_over_corrections(*inputs), [x for x in inputs if x is not None])


@pytest.mark.slow
@pytest.mark.parametrize("num_tokens", [64 * 4, 64 * 6 + 3])
def test_groups_of_chunks_agree_with_a_loop(num_tokens, monkeypatch):
    monkeypatch.setattr(_chunk_scan, "GROUP", 2)
    inputs = drawn(num_tokens, 0.1)
    assert_same(delta_rule(*inputs), loop(*inputs), inputs)


@pytest.mark.parametrize("strongest", [None, 0.1, 50.0])
def test_float32_is_close(strongest):
    inputs = drawn(131, strongest, torch.float32)
    exact = delta_rule(*(x if x is None else x.double() for x in inputs))
    for ours, wide in zip(delta_rule(*inputs), exact, strict=True):
        torch.testing.assert_close(ours.double(), wide, rtol=1e-4, atol=1e-4)


def test_a_key_that_returns_finds_its_last_value():
    key = F.normalize(torch.randn(1, 1, 1, K, dtype=torch.float64), dim=-1).expand(1, 70, 1, K)
    values = torch.randn(1, 70, 1, V, dtype=torch.float64)
    y, _ = delta_rule(key, key, values, torch.ones(1, 70, 1, dtype=torch.float64), None)
    torch.testing.assert_close(y, values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strongest", [None, 5.0])
def test_continues_from_a_state(strongest):
    *timed, state = drawn(75, strongest)
    whole, last = delta_rule(*timed, state)
    outputs = []
    for start, stop in ((0, 1), (1, 68), (68, 75)):
        y, state = delta_rule(*(x if x is None else x[:, start:stop] for x in timed), state)
        outputs.append(y)
    torch.testing.assert_close((torch.cat(outputs, 1), state), (whole, last), rtol=1e-10, atol=1e-10)


def test_half_precision_is_rounded_at_the_ends():
    inputs = [x.bfloat16() for x in drawn(70, 5.0)]
    expected, wide = delta_rule(*(x.float() for x in inputs))
    with torch.autocast("cpu", torch.bfloat16):
        y, state = delta_rule(*inputs)
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(state, wide)
